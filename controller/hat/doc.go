// Package hat switches what a ClusterHAT switches: the power of its four
// slots, its USB hub and its alert LED.
//
// A v1 hangs on GPIO lines of the board, a v2 or v3 on an I²C expander
// (XRA1200P or PCA9554) at address 0x20. Lines, registers and bits are those of
// clusterhat-image's clusterctrl and xra1200.py, and so is what is done to a
// HAT that nobody has touched since it got power; clusterctrl can be used
// beside this package. It takes no lock, though: what it writes in the same
// millisecond as this package may undo a bit of this package's, which notices
// if that is before it has read the bit back, and writes it again.
package hat
