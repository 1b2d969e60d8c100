"""What things take on this machine, beside the least they could take; one module per `wanstreamer bench` command."""
