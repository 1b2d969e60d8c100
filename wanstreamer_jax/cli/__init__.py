"""The command line: one module per command, with parser, examples and handler. Imports stay lazy.

Modules:
    aot.py              `wanstreamer aot`: finds out what a program needs on TPUs, without a TPU
    bench.py            `wanstreamer bench`: the commands that measure this machine, from `step` to `gpu`
    codec.py            `wanstreamer codec import`: pretrained codecs of other libraries
    config.py           `wanstreamer config from-hf`: writes config files
    data.py             `wanstreamer data make | preview | stats | encode | tfds`: makes and reads records
    evaluate.py         `wanstreamer eval` scores one agent; `wanstreamer ablate` compares configs
    inspect.py          `wanstreamer inspect layout | checkpoint | model`
    inspect_parts.py    What hears, sees, thinks, performs, speaks and draws, and what each part costs
    inspect_report.py   `wanstreamer inspect`: prints a layout, a checkpoint or a model; draws the mask
    main.py             The `wanstreamer` command: calls the sub-command and turns errors into exit statuses
    parsing.py          Helpers that the parsers of all sub-commands share
    recordings.py       `wanstreamer data import | check`: recordings, before `data make` reads them
    results.py          `--record PAGE`: copies what a measuring command prints into a Markdown page
    serve.py            `wanstreamer serve` runs the live service; `wanstreamer client` streams a file to it
    stream.py           `wanstreamer stream`: the agent answers a media file
    train.py            `wanstreamer train` and `export`: from a config file to weights
"""
