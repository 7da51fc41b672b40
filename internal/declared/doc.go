// Package declared is /etc/hatchery/workloads.json: what the controller runs once
// the swarm is up. Everything is settled in it that the workstation can settle: the
// variables of stack files are filled in, the files that they name are read. The
// builder writes it, `hatchery workloads apply` sends it, and the controller reads it.
//
// The content of secrets is not in it: each lies in a file of its own
// ([Secrets.Put]), which goes as soon as the swarm has it.
package declared
