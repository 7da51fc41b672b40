// Package backup is when the controller backs the swarm up: soon after a change, but
// not at every one, and to all nodes that are up. What a backup is, package
// swarmbackup says; firstboot/keep is the nodes' side.
package backup
