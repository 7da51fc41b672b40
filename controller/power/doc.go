// Package power is what the controller does with the power of a ClusterHAT's
// slots, its hub and its LED: what somebody asks for, what is to be switched on
// when the controller has booted, and nodes that are lost.
//
// Package hat switches; package netboot keeps the slots going that boot without a
// card. This package asks netboot where netboot has a slot's power ([Boots]), and
// does the rest: it knows what somebody has switched off by hand, which stays off
// until somebody switches it on, over restarts of the service and boots of the
// controller; it switches the other slots on, one after the other, once a boot;
// and it power-cycles nodes with cards that were ready and of which neither the
// link nor the swarm's entry is left, a few times ([Limits]), and then leaves them.
//
// clusterctrl and people at the HAT can switch beside it. What they switch off
// it does not switch on; and what was off by hand and has power after all, is
// off by hand no more.
package power
