// Package preserve keeps for nodes what outlives a new root, while they get one:
// it fetches it from the node before, gives it to the node with the new root, and
// throws it away when that was Ready for a day. Package kept says how it goes over
// the wire, firstboot/preserve is the nodes' end.
//
// The controller does not look into an archive: it is a node's, and that node alone
// gets it back. It lies compressed in a folder of its own, beside the service's
// state and not in it, which goes with every backup of the swarm.
package preserve
