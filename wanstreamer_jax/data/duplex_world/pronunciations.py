"""How duplex_world's words are spoken. Phones after each word, "1" on the accented vowel, "|" between the entries.

`phones.py` reads this beside its own list. "a" is spoken as the letter, since the world has no article.
"""

WORDS = """
a EY1|b B IY1|c S IY1|d D IY1|e IY1|f EH1 F|g JH IY1|h EY1 CH|j JH EY1|k K EY1|l EH1 L|m EH1 M|n EH1 N|o OW1|p P IY1
q K Y UW1|r AA1 R|s EH1 S|t T IY1|u Y UW1|v V IY1|w D AH1 B AX L Y UW|x EH1 K S|y W AY1|z Z IY1|zero Z IH1 R OW
banana B AX N AE1 N AX|ben B EH1 N|cleo K L IY1 OW|dan D AE1 N|eve IY1 V|tom T AA1 M|anna AE1 N AX|max M AE1 K S
lily L IH1 L IY|otto AA1 T OW|jack JH AE1 K|paul P AO1 L|alice AE1 L IH S|oscar AO1 S K ER|ella EH1 L AX
peter P IY1 T ER|julia JH UW1 L Y AX|david D EY1 V IH D|sara S EH1 R AX|adam AE1 D AX M|henry HH EH1 N R IY
clara K L AE1 R AX|simon S AY1 M AX N|olga OW1 L G AX|victor V IH1 K T ER|maya M AY1 AX|felix F IY1 L IH K S
lena L EY1 N AX|bruno B R UW1 N OW|ivan AY1 V AX N|bella B EH1 L AX|jonas JH OW1 N AX S|greta G R EH1 T AX
lucy L UW1 S IY|nina N IY1 N AX|ruby R UW1 B IY|grace G R EY1 S|hana HH AA1 N AX|tina T IY1 N AX|carl K AA1 R L
luis L UW IY1 S|dora D AO1 R AX|edgar EH1 D G ER|kim K IH1 M|walter W AO1 L T ER|ines IH N EH1 S|dublin D AH1 B L IH N
madrid M AX D R IH1 D|vienna V IY EH1 N AX|athens AE1 TH AX N Z|prague P R AA1 G|milan M IH L AA1 N|delhi D EH1 L IY
boston B AO1 S T AX N|dallas D AE1 L AX S|denver D EH1 N V ER|sydney S IH1 D N IY|havana HH AX V AE1 N AX
moscow M AA1 S K OW|warsaw W AO1 R S AO|geneva JH AX N IY1 V AX|venice V EH1 N IH S|porto P AO1 R T OW
helsinki HH EH L S IH1 NG K IY|sofia S OW F IY1 AX|riga R IY1 G AX|tunis T UW1 N IH S|nairobi N AY R OW1 B IY
kyoto K IY OW1 T OW|toronto T AX R AA1 N T OW|quito K IY1 T OW|zurich Z UH1 R IH K|naples N EY1 P AX L Z
florence F L AO1 R AX N S|bergen B ER1 G AX N|seoul S OW1 L|hanoi HH AE N OY1|manila M AX N IH1 L AX
bogota B OW G AX T AA1|chicago SH IH K AA1 G OW|seville S AX V IH1 L|rivers R IH1 V ER Z|trains T R EY1 N Z
coffee K AO1 F IY|lemons L EH1 M AX N Z|flowers F L AW1 ER Z|birds B ER1 D Z|horses HH AO1 R S IH Z|boats B OW1 T S
songs S AO1 NG Z|films F IH1 L M Z|games G EY1 M Z|cars K AA1 R Z|apples AE1 P AX L Z|cheese CH IY1 Z
football F UH1 T B AO L|walking W AO1 K IH NG|reading R IY1 D IH NG|cherries CH EH1 R IY Z|juice JH UW1 S
tennis T EH1 N IH S|swimming S W IH1 M IH NG|dancing D AE1 N S IH NG|cooking K UH1 K IH NG|painting P EY1 N T IH NG
mountains M AW1 N T AX N Z|islands AY1 L AX N D Z|gardens G AA1 R D AX N Z|ships SH IH1 P S|phone F OW1 N
baby B EY1 B IY|waving W EY1 V IH NG|nodding N AA1 D IH NG|shaking SH EY1 K IH NG|thumb TH AH1 M|smiling S M AY1 L IH NG
surprised S ER P R AY1 Z D|moons M UW1 N Z|left L EH1 F T|top T AA1 P|both B OW1 TH|know N OW1|sorry S AA1 R IY
welcome W EH1 L K AX M|goodbye G UH D B AY1|smile S M AY1 L|hear HH IH1 R|listen L IH1 S AX N|if IH F|away AX W EY1
its IH T S|would W UH D|describe D IH S K R AY1 B|kind K AY1 N D|wonder W AH1 N D ER|round R AW1 N D|or AO R
some S AH1 M|other AH1 DH ER|more M AO1 R|side S AY1 D|place P L EY1 S|picture P IH1 K CH ER|put P UH1 T|part P AA1 R T
view V Y UW1|moved M UW1 V D|letter L EH1 T ER|read R IY1 D|card K AA1 R D|does D AX Z|written R IH1 T AX N
digit D IH1 JH IH T|says S EH1 Z|wrote R OW1 T|same S EY1 M|match M AE1 CH|alike AX L AY1 K|different D IH1 F R AX N T
any EH1 N IY|difference D IH1 F R AX N S|between B IH T W IY1 N|equal IY1 K W AX L|find F AY1 N D|looks L UH1 K S
mean M IY1 N|meant M EH1 N T|asked AE1 S K T|wrong R AO1 NG|talking T AO1 K IH NG|asking AE1 S K IH NG
actually AE1 K CH AX L IY|instead IH N S T EH1 D|take T EY1 K|mistake M IH S T EY1 K|should SH UH D|said S EH1 D
correct K AX R EH1 K T|before B IH F AO1 R|remember R IH M EH1 M B ER|earlier ER1 L IY ER|moment M OW1 M AX N T
ago AX G OW1|showed SH OW1 D|something S AH1 M TH IH NG|forgotten F ER G AA1 T AX N|agree AX G R IY1|people P IY1 P AX L
town T AW1 N|stay S T EY1|enjoy IH N JH OY1|pronounce P R AX N AW1 N S|speak S P IY1 K|try T R AY1|loud L AW1 D
spell S P EH1 L|letters L EH1 T ER Z|spelled S P EH1 L D|write R AY1 T|spelling S P EH1 L IH NG|need N IY1 D
make M EY1 K|together T AX G EH1 DH ER|get G EH1 T|comes K AH1 M Z|follows F AA1 L OW Z|next N EH1 K S T|when W EH N
stands S T AE1 N D Z|goes G OW1 Z|numbers N AH1 M B ER Z|start S T AA1 R T|until AX N T IH1 L|counting K AW1 N T IH NG
yet Y EH1 T|may M EY1|ask AE1 S K|near N IH1 R|really R IH1 L IY|anything EH1 N IY TH IH NG|into IH1 N T UW
most M OW1 S T|ah AA1|alright AO L R AY1 T|everyone EH1 V R IY W AH N|been B IH N|while W AY1 L|wanted W AA1 N T IH D
speaking S P IY1 K IH NG|way W EY1|still S T IH1 L|already AO L R EH1 D IY|doing D UW1 IH NG|gesture JH EH1 S CH ER
happening HH AE1 P AX N IH NG|head HH EH1 D|move M UW1 V|moving M UW1 V IH NG|sign S AY1 N|making M EY1 K IH NG
else EH1 L S|watch W AA1 CH|face F EY1 S|mood M UW1 D|expression IH K S P R EH1 SH AX N|sad S AE1 D|seem S IY1 M
feel F IY1 L|going G OW1 IH NG|everything EH1 V R IY TH IH NG|hope HH OW1 P|having HH AE1 V IH NG|thanks TH AE1 NG K S
grateful G R EY1 T F AX L|lot L AA1 T|helped HH EH1 L P T|telling T EH1 L IH NG|help HH EH1 L P|later L EY1 T ER
must M AH S T|farewell F EH R W EH1 L|care K EH1 R|talk T AO1 K|soon S UW1 N|time T AY1 M|yourself Y AO R S EH1 L F
leaving L IY1 V IH NG|tomorrow T AX M AA1 R OW|open OW1 P AX N|close K L OW1 Z|bring B R IH1 NG|drive D R AY1 V
car K AA1 R|buy B AY1|clean K L IY1 N|ride R AY1 D|wash W AA1 SH|shirt SH ER1 T|fly F L AY1|carry K AE1 R IY
boxes B AA1 K S IH Z|glass G L AE1 S|turn T ER1 N|off AO1 F|light L AY1 T|room R UW1 M|cup K AH1 P|come K AH1 M
over OW1 V ER|sit S IH1 T|shut SH AH1 T|tonight T AX N AY1 T|shelf SH EH1 L F|shoes SH UW1 Z|dirty D ER1 T IY
sun S AH1 N|lovely L AH1 V L IY|laugh L AE1 F|outside AW T S AY1 D|eggs EH1 G Z|breakfast B R EH1 K F AX S T
chair CH EH1 R|feels F IY1 L Z|soft S AO1 F T|someone S AH1 M W AH N|sold S OW1 L D|kept K EH1 P T|early ER1 L IY
shop SH AA1 P|closed K L OW1 Z D|full F UH1 L|woke W OW1 K|noon N UW1 N|down D AW1 N|stayed S T EY1 D|keys K IY1 Z
son S AH1 N|baked B EY1 K T|everybody EH1 V R IY B AA D IY|fell F EH1 L|nothing N AH1 TH IH NG|broken B R OW1 K AX N
ended EH1 N D IH D|film F IH1 L M|walked W AO1 K T|twice T W AY1 S|missed M IH1 S T|never N EH1 V ER|mind M AY1 N D
be B IY|quiet K W AY1 AX T|second S EH1 K AX N D|likes L AY1 K S
"""
