"""One file per cascade: get_config(stage) returns what differs from the defaults of ivid.spec. Installed as ivid.configs."""
