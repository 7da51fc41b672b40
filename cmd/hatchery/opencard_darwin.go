package main

import "golang.org/x/sys/unix"

// parentOf is the parent of the process at the other end of a socket: unix(4),
// LOCAL_PEERPID, and sysctl(3), KERN_PROC_PID.
func parentOf(socket int) (int, error) {
	peer, err := unix.GetsockoptInt(socket, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return 0, err
	}
	process, err := unix.SysctlKinfoProc("kern.proc.pid", peer)
	if err != nil {
		return 0, err
	}
	return int(process.Eproc.Ppid), nil
}
