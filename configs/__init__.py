"""One file per cascade: get_config(stage) returns the ConfigDict of that stage. Installed as ivid.configs."""
