// Package clustertest is a whole cluster for tests: the lab of real engines
// and cables (enginetest) with an identity and a node.json for each machine,
// and on them the real agent and the real service, as processes that can be
// killed. What there is no systemd and no USB gadget for is left to the lab;
// clocks are not set.
//
// A test binary that uses it has a TestMain that calls [Main]: agent and
// service are that binary, started again.
package clustertest
