"""Several devices and several hosts as one job: meshes, where every parameter lives, launching, what a chip can do.

Modules:
    cost.py          What a program must do at least: FLOPs of its matrix products and convolutions, and bytes of ...
    exit_reason.py   Why a job of several processes ended, known to all of them: one process's reason is every ...
    hosts.py         Several processes that are one job: joining it, agreeing in it, and leaving it when one of ...
    launcher.py      Starts the processes of a job on this machine, and the whole job again when one of them dies
    machine.py       What this machine is, and what it does at best: its name, peak rates and memory
    mesh.py          The device mesh, and the few helpers that speak to it
    rules.py         Where every parameter lives on the mesh: one table outside the model
"""
