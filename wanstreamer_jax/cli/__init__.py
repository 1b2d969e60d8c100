"""The command line: one module per command, with its parser, its examples and its handler. Imports stay lazy.

Modules:
    aot.py              `wanstreamer aot`: what a program needs on TPUs, found without one
    bench.py            `wanstreamer bench step | train | serve | session | loader`: measurements of this machine
    data.py             `wanstreamer data make | preview | stats | encode | tfds`: sessions as records
    evaluate.py         `wanstreamer eval` and `ablate`: what weights are worth, and what each choice is worth
    inspect.py          `wanstreamer inspect layout | checkpoint | model`
    inspect_report.py   `wanstreamer inspect`: a layout as a table and its mask as a picture, a checkpoint's ...
    main.py             The `wanstreamer` command: finds the sub-command, calls it, and turns errors into one ...
    parsing.py          What the parsers of all sub-commands share
    results.py          `--record PAGE`: what a measuring command prints also goes into a Markdown page, such as ...
    serve.py            `wanstreamer serve` and `wanstreamer client`: the live service and a visitor made of a file
    stream.py           `wanstreamer stream`: the agent answers a media file
    train.py            `wanstreamer train` and `export`: from a config file to weights
"""
