// Package swarmbackup is a backup of the swarm: how it is taken while the
// engine writes, what it is made of, how nodes are asked for the newest one,
// and how it is restored. When backups are taken is controller/backup's
// business, and keeping them firstboot/keep's.
//
// A backup is a sealed stream (package sealed) to the controller's own key,
// its label a JSON object (Label), its content a tar in gzip:
//
//	swarm/docker-state.json, swarm/state.json          the engine's addresses, the managers it knows
//	swarm/certificates/…                               the swarm's CA with its key, the manager's certificate
//	swarm/raft/snap-v3-encrypted/…, wal-v3-encrypted/… the state itself: a snapshot and a log
//	state/…                                            the folder of the enrolment service
//
// The log is written anew: as one segment, from the snapshot on, without the
// preallocated zeros, of which an empty swarm has 128 MB. worker/tasks.db is left out:
// it lists containers that a new card does not have.
//
// gzip, not zstd: raft's files are encrypted, so that nothing is left to
// compress in them, and the agent has gzip anyway.
package swarmbackup
