package emulator

import "os/exec"

func bind(*exec.Cmd) {}

func ask(cmd *exec.Cmd) error { return cmd.Process.Kill() }
