// Nodeinit is /init of the initramfs that a node boots over its link with: it
// brings up the link, attaches the root file system that the controller keeps,
// and becomes its init. A second process of it stays behind and keeps the
// connection. Package netboot/node has it all.
package main

import (
	"fmt"
	"os"
	"strings"

	"hatchery/netboot/node"
)

func main() {
	switch {
	case len(os.Args) > 0 && strings.HasPrefix(os.Args[0], node.KeeperName):
		if err := node.Keep(os.Args); err != nil {
			os.Exit(1)
		}
	case os.Getpid() == 1:
		node.Run(os.Args[1:])
	default:
		fmt.Fprintln(os.Stderr, "nodeinit is /init of an initramfs: it is started by the kernel, as process 1")
		os.Exit(2)
	}
}
