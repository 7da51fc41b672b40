// Package clustertest is a whole cluster for tests: the lab of real engines
// and cables (enginetest) with an identity and a node.json for each machine,
// and on them the real agent and the real service, as processes that can be
// killed. What there is no systemd and no USB gadget for is left to the lab;
// clocks are not set.
//
// A slot's machine can have a card ([Cluster.Insert]), with an image that was built for it
// ([Cluster.Build]). Of what becomes of it then,
//
//	real    the image, which is a base and a layer with a FAT32 boot partition and an ext4
//	        root, by the packages that a build edits images with; both ends of a push and the
//	        controller's store; `hatchery rebuild` and `upgrade` on the service's
//	        socket; operation, reimage and preserve in the service; the agent's arming,
//	        with the order on the card; what fetches and writes the pieces
//	        (netboot/reimager), over mutual TLS in the machine's network; the agent's
//	        step that puts back what was kept
//	played  the card is a file, and its boot partition is armed as a folder beside it; in
//	        the place of kernel and /init, the test starts what writes the card where that is
//	        armed, and then the agent; nobody mounts the root: the machine's folders are
//	        emptied, and node.json, identity and preloaded images read out of the
//	        ext4 that was written
//
// That a kernel boots what was written, and how power cuts end while it is written, is
// cmd/reimage's and netboot/reimager's to show.
//
// A controller can have a HAT ([Options].HAT), which is an expander with its registers in
// a file: the service switches it as one on its I²C bus, and a test looks at its pins.
//
// A test binary that uses it has a TestMain that calls [Main]: agent and
// service are that binary, started again.
package clustertest
