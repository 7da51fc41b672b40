// Package node is what a node does that boots over its link, from the kernel's
// start to the first program of its system: cmd/nodeinit is /init of its
// initramfs.
//
// It loads modules, makes the USB gadget, brings up the link and its VLAN,
// opens the slot's export at the controller's NBD server, gives the connection
// to the kernel, finds and mounts the root file system and becomes its init.
// An ephemeral root is a snapshot of the disk, whose store is compressed
// memory.
//
// One process stays behind (Keep). It lives in memory only, and when the
// connection is lost, because the controller starts anew or the link was
// pulled, it opens another: until then the kernel has every request wait.
//
// What cannot go on is told in plain words, on the console and on the gadget's
// (ttyGS0), with a few commands to look and to try again; whatever can heal by
// itself is tried again all the time.
//
// The parts are packages of their own: bootline (the command line), modules,
// gadget, link, nbdclient (the handshake), nbdlink (the kernel's NBD client),
// rootdisk (the partition that is root), dm (snapshot and compressed memory),
// retry, nl (netlink).
package node
