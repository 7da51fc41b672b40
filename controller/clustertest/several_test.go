//go:build linux

package clustertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/controller/clustertest"
	"hatchery/firstboot/founding"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// TestSeveralControllers has three controllers, of which one is lost and comes back
// with an empty disk. Meanwhile the others go on: services are made, and nodes join,
// that of the lost controller's HAT too.
func TestSeveralControllers(t *testing.T) {
	hats := clustertest.NewSeveral(t, clustertest.Options{Founding: founding.Waits{Settle: time.Second, Grace: 10 * time.Second}}, []int{1}, []int{5}, []int{9})
	first, second, third := hats[0], hats[1], hats[2]
	for _, c := range hats {
		c.PowerOn(c.Controller)
	}
	first.PowerOn(first.Slot(1))
	second.PowerOn(second.Slot(5))

	want := []string{"controller manager ready active", "controller2 manager ready active", "controller3 manager ready active", "p1 worker ready active", "p5 worker ready active"}
	before := waitFor(t, third, want)
	make1 := func(c *clustertest.Cluster, name string) {
		t.Helper()
		eventually(t, name+" is made", func(ctx context.Context) error {
			// One that was made though its answer came too late is not made again.
			services, err := c.Controller.Engine().ServiceEntries(ctx)
			if err != nil || slices.ContainsFunc(services, func(s swarm.ServiceEntry) bool { return s.Spec.Name == name }) {
				return err
			}
			_, err = c.Controller.Engine().CreateService(ctx, dockerswarm.ServiceSpec{
				Annotations:  dockerswarm.Annotations{Name: name},
				TaskTemplate: dockerswarm.TaskSpec{ContainerSpec: &dockerswarm.ContainerSpec{Image: "none:1"}},
			})
			return err
		})
	}
	make1(first, "before")

	// A power cut, and a card that is gone.
	first.PowerOff(first.Controller)
	make1(third, "after")
	second.PowerOff(second.Slot(5))
	second.Reflash(second.Slot(5))
	second.PowerOn(second.Slot(5))
	// A new root would wait for its own controller, which may have kept something.
	if _, err := first.Slot(1).Docker(t.Context(), "swarm", "leave"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, second, []string{"controller manager down active", want[1], want[2], want[3], want[4]}, before["p1"], before["p5"])
	if _, err := third.Service().Revoke(t.Context(), 5); err != nil {
		t.Fatal(err)
	}

	first.Reflash(first.Controller)
	first.PowerOn(first.Controller)
	waitFor(t, first, want[:4], before["controller"])
	eventually(t, "it knows of the services, and of what was revoked meanwhile", func(ctx context.Context) error {
		services, err := first.Controller.Engine().ServiceEntries(ctx)
		if err != nil || len(services) != 2 {
			return fmt.Errorf("%d services, %v", len(services), err)
		}
		for _, c := range hats {
			view, err := c.Service().Cluster(ctx)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(view.Slots, func(v enrol.SlotView) bool { return v.Slot == 5 })
			if i < 0 || view.Slots[i].MinGeneration != 2 {
				return fmt.Errorf("%s does not know that p5 was revoked", c.Controller.Name)
			}
		}
		return nil
	})

	// Its next card is let in, and none of the three takes it for what was revoked.
	second.PowerOff(second.Slot(5))
	second.Renew(second.Slot(5))
	second.PowerOn(second.Slot(5))
	next := waitFor(t, second, want, before["p5"])["p5"]
	for began := time.Now(); time.Since(began) < 15*time.Second; time.Sleep(time.Second) {
		n, err := second.Controller.Engine().Node(t.Context(), next)
		if errors.Is(err, swarm.ErrNotFound) || err == nil && n.Availability != "active" {
			t.Fatalf("p5's new entry is %+v, %v", n, err)
		}
	}
}

// waitFor waits until the list of nodes is as wanted, and without these entries. It
// gives the entries by their slots.
func waitFor(t *testing.T, c *clustertest.Cluster, want []string, gone ...string) map[string]string {
	t.Helper()
	ids := map[string]string{}
	eventually(t, "the nodes are as wanted", func(ctx context.Context) error {
		nodes, err := c.Controller.Engine().Nodes(ctx)
		if err != nil {
			return err
		}
		clear(ids)
		var lines []string
		for _, n := range nodes {
			lines = append(lines, inLine(n))
			ids[n.Labels["hatchery.slot"]] = n.ID
			if slices.Contains(gone, n.ID) {
				lines = append(lines, n.ID+", which is to go")
			}
		}
		slices.Sort(lines)
		if !slices.Equal(lines, want) {
			return fmt.Errorf("nodes:\n%s\nwanted:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
	return ids
}

func inLine(n swarm.Node) string {
	role := "worker"
	if n.Manager {
		role = "manager"
	}
	return fmt.Sprintf("%s %s %s %s", n.Labels["hatchery.slot"], role, n.State, n.Availability)
}

// eventually tries something until it is without an error.
func eventually(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for {
		asking, done := context.WithTimeout(ctx, 15*time.Second)
		err := f(asking)
		done()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
