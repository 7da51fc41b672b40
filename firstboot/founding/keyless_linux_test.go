package founding_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/internal/swarm"
)

// The engine was killed over making the swarm, when its own certificate was on
// the disk and what the swarm is was not: it opens one then that has no key for
// its CA, calls itself its active manager, and nobody can ever join.
func TestEngineKilledOverInit(t *testing.T) {
	b := newBench(t)
	c := b.Controller
	plan := filepath.Join(c.State(), founding.PlanFile)
	keyless := func() string {
		t.Helper()
		_, err := c.Engine().Init(t.Context(), swarm.InitOptions{Addr: c.Addr})
		b.must(err)
		c.KillEngine()
		b.must(os.RemoveAll(filepath.Join(c.DockerRoot(), "swarm", "raft")))
		b.must(c.StartEngine(t.Context()))
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			cluster, err := c.Engine().Cluster(t.Context())
			if err == nil {
				err = c.Engine().Set(t.Context(), cluster.Settings)
			}
			if errors.Is(err, swarm.ErrNoSigner) {
				return cluster.ID
			}
			if err == nil || time.Now().After(deadline) {
				t.Fatalf("the swarm can sign: %v", err)
			}
		}
	}

	t.Run("as this agent's", func(t *testing.T) {
		worthless := keyless()
		b.must(os.WriteFile(plan, []byte(`{"stage": "init"}`), 0o600))
		result := b.settle()
		if result.How != founding.Made || result.ClusterID == worthless {
			t.Fatalf("%+v, want another swarm than %s", result, worthless)
		}
		b.populate()
	})
	t.Run("as somebody else's", func(t *testing.T) {
		// Nothing that may be of use to anybody is thrown away.
		b.must(c.Engine().Leave(t.Context(), true))
		keyless()
		before, err := c.Engine().Info(t.Context())
		b.must(err)
		if _, err := b.founding().Reconcile(t.Context()); !errors.Is(err, swarm.ErrNoSigner) {
			t.Errorf("the error is %v, want what is wrong with the swarm", err)
		}
		if after, err := c.Engine().Info(t.Context()); err != nil || after.ClusterID != before.ClusterID {
			t.Errorf("%+v, %v, want swarm %s as it was", after, err, before.ClusterID)
		}
	})
}
