"""The parts of which duplex_world's sentences are composed. Openers, cores and endings, with "|" between them.

A "," is a place for a pause, a `{slot}` is filled when it is said. Cores are of four moods: `ask` is a question of its
own, `tell` follows "tell me", `do` is an order, `say` is a remark. Openers and endings are shared by all acts, so that
a word means the same everywhere. The `new` parts are never heard in training.
"""

OPENERS = {
  "ask": "|so|now|okay|and|well|hey",
  "tell": "tell me|please tell me|can you tell me|now tell me|can you say|do you know|so tell me",
  "do": "|please|now|can you|okay|so|can you please",
  "say": "|oh|well|so|okay|now|hey",
}
NEW_OPENERS = {
  "ask": "listen|right then",
  "tell": "could you tell me|i want to know|let me know",
  "do": "would you|try to|could you please",
  "say": "ah|alright",
}
ENDINGS = {"ask": "|please|now", "tell": "|please|now", "do": "|please|now", "say": ""}
NEW_ENDINGS = {"ask": "if you can|right away", "tell": "if you can|right away", "do": "for us|right away", "say": ""}

# act -> {mood: cores}; "new" cores ("mood: core") and other endings or openers where the act has its own.
PARTS: dict[str, dict[str, str]] = {
  "colour": {
    "ask": "what colour , is it|which colour is it|what colour is this|what is the colour|what colour do you see",
    "tell": "the colour|what colour it is|which colour it is|what colour you see",
    "new": "ask:what colour am i holding|ask:which colour has it got",
  },
  "shape": {
    "ask": "what shape , is it|which shape is it|what shape is this|what is the shape|what do you see|what is this",
    "tell": "the shape|what shape it is|which shape it is|what you see",
    "new": "ask:what am i holding|ask:what kind of thing is it",
  },
  "count": {
    "ask": "how many , are there|how many do you see|how many {things} are there|how many {things} do you see",
    "tell": "how many there are|how many you see|how many {things} there are|how many {things} you see",
    "new": "ask:how many have i got|ask:how many {things} am i holding",
  },
  "place": {
    "ask": "where is it|where do you see it|where is the {thing}|where do you see the {thing}|on which side is it",
    "tell": "where it is|where you see it|where the {thing} is|on which side it is",
    "new": "ask:where am i holding it|ask:in what place is it",
  },
  "letter": {
    "ask": "what letter , is it|which letter is it|what letter is this|what is the letter|what letter do you see",
    "tell": "the letter|what letter it is|which letter it is|what letter you see",
    "new": "ask:what letter am i holding|do:read the letter",
  },
  "digit": {
    "ask": "what number , is it|which number is it|what number is this|what is the number|what number do you see",
    "tell": "the number|what number it is|which number it is|what number you see",
    "new": "ask:what number am i holding|do:read the number",
  },
  "same": {
    "ask": "are they the same {attribute}|are both the same {attribute}|is the {attribute} the same|"
           "do they have the same {attribute}|do you see the same {attribute}",
    "tell": "if they are the same {attribute}|if both are the same {attribute}|if the {attribute} is the same",
    "new": "ask:does the {attribute} match|ask:have they got the same {attribute}",
  },
  "which": {
    "ask": "which one is {key}|which is the {key} one|where is the {key} one|where do you see the {key} one|"
           "on which side is the {key} one",
    "tell": "which one is {key}|which is the {key} one|where the {key} one is|where you see the {key} one",
    "new": "ask:in what place is the {key} one|do:find the {key} one",
  },
  "which_colour": {
    "ask": "what colour is the {key} one|which colour is the {key} one|what is the colour of the {key} one",
    "tell": "the colour of the {key} one|what colour the {key} one is|which colour the {key} one is",
    "new": "ask:what colour has the {key} one got",
  },
  "which_shape": {
    "ask": "what shape is the {key} one|which shape is the {key} one|what is the shape of the {key} one|"
           "what is the {key} one",
    "tell": "the shape of the {key} one|what shape the {key} one is|what the {key} one is",
    "new": "ask:what kind of thing is the {key} one",
  },
  "correction": {
    "say": "the {key} one|i mean the {key} one|and the {key} one|what about the {key} one|not that , the {key} one",
    "openers": "no|oh no|no no|sorry|well|and now|okay", "endings": "|please|now",
    "new": "say:i meant the {key} one|say:i asked for the {key} one", "new openers": "wrong|wait",
  },
  "memory_colour": {
    "ask": "what colour was it|which colour was it|what was the colour|what colour did you see|"
           "what colour did i show you",
    "tell": "what colour it was|which colour it was|what colour you saw|what colour i did show you",
    "endings": "|before|please", "new": "do:remember the colour|ask:what colour had i got",
  },
  "memory_shape": {
    "ask": "what shape was it|which shape was it|what was the shape|what did you see|what did i show you|what was it",
    "tell": "what shape it was|which shape it was|what you saw|what i did show you",
    "endings": "|before|please", "new": "do:remember the shape|ask:what had i got",
  },
  "memory_count": {
    "ask": "how many were there|how many did you see|how many did i show you",
    "tell": "how many there were|how many you saw|how many i did show you",
    "endings": "|before|please", "new": "do:remember how many|ask:how many had i got",
  },
  "yes_no_colour": {
    "ask": "is it {word}|is this {word}|is the colour {word}|is the thing {word}",
    "tell": "if it is {word}|if this is {word}|if the colour is {word}|if the thing is {word}",
    "new": "ask:is the colour like {word}|ask:has it got {word}",
  },
  "yes_no_count": {
    "ask": "are there {word}|do you see {word}|is the number {word}",
    "tell": "if there are {word}|if you see {word}|if the number is {word}",
    "new": "ask:am i holding {word}|ask:have i got {word}",
  },
  "yes_no_name": {
    "ask": "are you {word}|is your name {word}|are you called {word}|is {word} your name",
    "tell": "if you are {word}|if your name is {word}|if you are called {word}",
    "new": "ask:am i talking to {word}|ask:do people call you {word}",
  },
  "yes_no_home": {
    "ask": "do you live in {word}|is your home in {word}|is {word} your home|are you from {word}",
    "tell": "if you live in {word}|if your home is in {word}|if you are from {word}",
    "new": "ask:is {word} your town|ask:do you stay in {word}",
  },
  "yes_no_likes": {
    "ask": "do you like {word}|do you love {word}|is your favourite {word}",
    "tell": "if you like {word}|if you love {word}|if your favourite is {word}",
    "new": "ask:do you enjoy {word}",
  },
  "repeat": {
    "do": "say , {word}|repeat , {word}|say the word , {word}|repeat the word , {word}|say after me , {word}",
    "new": "do:pronounce {word}|do:speak the word {word}",
  },
  "spell": {
    "do": "spell , {word}|spell the word , {word}|say the letters of {word}|spell the name , {word}",
    "ask": "how do you spell {word}|what are the letters of {word}",
    "tell": "how you spell {word}|the letters of {word}",
    "new": "do:read out the letters in {word}|ask:how is {word} written",
  },
  "sum": {
    "ask": "what is , {a} plus {b}|how much is {a} plus {b}|what is {a} and {b}|how much is {a} and {b}",
    "tell": "{a} plus {b}|what {a} plus {b} is|how much {a} plus {b} is|how much {a} and {b} is",
    "do": "add {a} and {b}|add {a} plus {b}",
    "new": "ask:what do {a} and {b} make|do:put {a} and {b} together",
  },
  "after": {
    "ask": "what comes after {n}|which number comes after {n}|what number is after {n}|what is after {n}",
    "tell": "what comes after {n}|which number comes after {n}|the number after {n}|what is after {n}",
    "new": "ask:what follows {n}|ask:which number follows {n}",
  },
  "before": {
    "ask": "what comes before {n}|which number comes before {n}|what number is before {n}|what is before {n}",
    "tell": "what comes before {n}|which number comes before {n}|the number before {n}|what is before {n}",
    "new": "ask:what stands before {n}|ask:what goes before {n}",
  },
  "counting": {
    "do": "count to {n}|count up to {n}|count from one to {n}|count for me to {n}|say the numbers to {n}",
    "new": "do:start to count to {n}|do:count until {n}",
  },
  "name": {
    "ask": "what is , your name|who are you|what are you called|what name do you have",
    "tell": "your name|who you are|what your name is|what you are called",
    "new": "ask:who am i talking to|ask:how do people call you",
  },
  "about_you": {
    "tell": "something about you|about you|all about you|more about you|some more about you",
    "do": "say something about you|talk about you|say more about you",
    "new": "ask:what should i know about you|ask:how would you describe you",
  },
  "home": {
    "ask": "where , do you live|where is your home|where are you from|in which city do you live|what is your city",
    "tell": "where you live|where your home is|where you are from|your city",
    "new": "ask:what town do you live in|ask:where do you stay",
  },
  "likes": {
    "ask": "what , do you like|what do you love|what is your favourite thing|which thing do you like",
    "tell": "what you like|what you love|your favourite thing|which thing you like",
    "new": "ask:what do you enjoy|ask:what makes you happy",
  },
  "greet": {
    "say": "hello|hi|good morning|good day|nice to see you|hello hello", "openers": "|oh|well|hey|okay|and now",
    "endings": "|there|my friend|today", "new": "say:good evening|say:welcome", "new endings": "everyone",
  },
  "tell_name": {
    "say": "my name is {name}|i am {name}|i am called {name}|you can call me {name}|the name is {name}",
    "openers": "|hello|hi|well|so|okay|hey", "endings": "|you know|my friend",
    "new": "say:people call me {name}|say:this is {name} talking",
  },
  "who_am_i": {
    "ask": "who am i|what is my name|what am i called|what name do i have|do you know me",
    "tell": "who i am|my name|what my name is|what i am called",
    "new": "ask:who is talking to you|ask:how do people call me",
  },
  "gesture": {
    "ask": "what am i doing|what do i do|what do you see me do|what is it that i do",
    "tell": "what i am doing|what i do|what you see me do|what i am doing here",
    "new": "ask:what gesture is that|ask:what is happening here",
  },
  "face": {
    "ask": "how do i look|how is my face|how do you see my face|what do you see in my face|how am i",
    "tell": "how i look|how my face is|what you see in my face|how i am",
    "new": "ask:what mood am i in|ask:which expression is that",
  },
  "how_are_you": {
    "ask": "how are you|how do you feel|how is it going|are you well|how are things",
    "tell": "how you are|how you feel|how it is going|if you are well",
    "endings": "|today|now", "new": "ask:how have you been|ask:is everything alright",
  },
  "thanks": {
    "say": "thank you|thanks|many thanks|thank you very much|thanks for that|that was very good",
    "endings": "|my friend|today", "new": "say:i am grateful|say:how kind",
  },
  "goodbye": {
    "say": "bye|goodbye|bye bye|see you|see you later|i must go now",
    "endings": "|my friend|today|then", "new": "say:farewell|say:take care",
  },
  "refusal": {
    "do": "open the door|close the window|make some tea|cook the dinner|play the piano|call my mother|bring me water|"
          "drive the car|buy some bread|clean the house|go for a walk|ride the horse",
    "new": "do:wash my shirt|do:fly to the moon|do:carry the boxes",
  },
  "statement": {
    "say": "nice day today|i like music|this is fun|i like {likes}|i was in {home}|it is cold today|i am very tired|"
           "the sun is warm|we had some {likes}|my friend is from {home}|i love {likes}|{home} is very nice",
    "new": "say:what lovely weather|say:the bus was late|say:i have been to {home}|say:{likes} make me laugh",
  },
  "story": {
    "say": "i saw the {one} , and then the {two}|i had the {one} , and then the {two}|i went to {home} , and then home|"
           "first came the {one} , and then the {two}|there was the {one} , and also the {two}",
    "endings": "|you know|today", "new": "say:someone sold the {one} , but kept the {two}",
  },
  "stop": {
    "say": "stop|stop please|wait|no stop|that is enough|please stop now|stop it", "openers": "|okay|oh|no|well|now",
    "endings": "", "new": "say:hold on|say:never mind",
  },
}  # fmt: skip

# The acts of size "small": they keep to these many openers, cores and endings of each mood.
SMALL_ACTS = ("greet", "colour", "shape", "count", "name", "home", "likes", "sum", "repeat", "counting", "statement",
              "story", "stop")  # fmt: skip
SMALL_OPENERS, SMALL_CORES, SMALL_ENDINGS = 2, 2, 1
