"""Measures how good an agent is, always beside baselines from the same run.

Modules:
    ablation.py          `wanstreamer ablate`: trains and evaluates config files, and writes one table
    ablation_report.py   Writes the table and the figure of `wanstreamer ablate`
    answers.py           Judges answers to questions: which words are right, in writing and by ear
    baselines.py         The engine wrapped for evaluation: sessions side by side, and the baseline variants
    by_minute.py         Evaluates long sessions minute by minute: does an agent stay itself for an hour?
    cause.py             Speech without cause: whether the agent speaks when nobody asked
    closed_loop.py       Runs the agent against users that react; `scores.score` judges every conversation
    duplex_world.py      Turns the ground truth of duplex_world into a `Script`: what each user act calls for
    evaluate.py          Evaluates an agent: closed loop, teacher-forced errors, codecs, and their baselines
    heldout.py           Loads held-out sessions as rows of latents, and the codecs' reconstructions of them
    intervals.py         Means over sessions with bootstrap intervals
    judged.py            Judges voices by ear: word errors, quality, and right answers as they are heard
    judges.py            A stranger's ear: a recogniser and DNSMOS, or a matcher of templates
    latent_errors.py     Teacher-forced errors on held-out records, beside trivial baselines (law 10)
    metrics.py           Metrics of video, audio, lip sync and identity, in NumPy
    real_speech.py       Judges the voice of records by a recogniser and DNSMOS (`judges.py`)
    recorded_script.py   Finds what the user of a recording called for, from who spoke when
    records.py           Evaluates an agent on held-out records: errors, and streaming beside recorded users
    report.py            Writes an evaluation as eval.json, eval.md and eval.png
    robustness.py        Evaluates an agent with users who are changed: other microphones, cameras and voices
    scores.py            Scores one conversation
    sections.py          The tables of an evaluation: their figures, in order, and how each is written
    seeds.py             Joins evaluations of several training runs in tables with means and spreads
    template_judge.py    Judges by templates, without a recogniser, whether words can be understood
    turns.py             Turn-taking metrics in NumPy: who speaks when, and whether that was right
"""
