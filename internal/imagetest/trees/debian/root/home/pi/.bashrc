# ~/.bashrc
force_color_prompt=yes
