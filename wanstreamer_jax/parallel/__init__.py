"""One job on several devices and hosts: meshes, sharding rules, launching, exit reasons.

Modules:
    cost.py          Counts the least that a program must do: FLOPs of its products, bytes that it reads
    exit_reason.py   Makes all processes of a job end with the reason and status of the one that failed
    hosts.py         Several processes as one job: they join, agree, and end when one of them is lost
    launcher.py      Starts the processes of a job on this machine; restarts the job when one of them dies
    machine.py       This machine and published chips: peak rates, memory, measured speed, names
    mesh.py          The device mesh and the few helpers that use it
    renamed.py       Names that leaves had in older checkpoints and exports, and their order then
    rules.py         Where every parameter lies on the mesh: one table outside the model
    xla_flags.py     Sets the XLA flag that two versions of jaxlib need on CPUs
"""
