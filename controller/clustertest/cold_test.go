//go:build linux

package clustertest_test

import (
	"testing"

	"hatchery/controller/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// TestColdStart powers everything on at once: nobody does anything else, and
// the list of nodes is as cluster.yaml has it.
func TestColdStart(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2}, Labels: map[int]map[string]string{1: {"disk": "ssd"}}})
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	c.WaitSettled()
}
