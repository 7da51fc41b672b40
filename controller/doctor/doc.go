// Package doctor says what is wrong with a cluster, and what to do about it:
// what its nodes found of themselves, what the service knows of its slots, and
// what can be seen on the controller alone (its packet filter, its addresses, its
// units, what Docker tells of containers that died). Every kind of finding has a
// code, and docs/troubleshooting.md tells of each.
package doctor
