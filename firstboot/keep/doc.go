// Package keep is what a node does for the controller: it keeps the latest
// backups of the swarm, so that a controller with a new card finds its swarm
// again. A backup is sealed to the controller's key; the node neither reads it
// nor could. The protocol is swarmbackup's.
package keep
