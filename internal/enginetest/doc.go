// Package enginetest is a lab for tests: real Docker Engines on real network
// links, in network namespaces of one machine. A Lab has the topology of a
// ClusterHAT: a controller with the bridge br0, and a cable (a veth pair) to
// each slot, with the addresses and MACs of the network plan. Each Machine has
// its namespace, host name, folders and engine; processes run in it, and it is
// wiped, killed or unplugged as a real one would be.
//
// What it lacks: a systemd (Units stands for the little that is asked of one),
// memory, processors and a clock of a machine's own, and IP_VS where the
// kernel has none (so a published port of a service proves nothing).
//
// It needs root, Linux, dockerd, iproute2 and util-linux, and runs beside
// other tests. When the test ends, or dies, everything that it started goes.
package enginetest
