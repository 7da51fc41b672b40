package serving

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"hatchery/controller"
	"hatchery/internal/swarm"
)

// An engine in a state.
type engine struct {
	controller.Engine
	state swarm.State
}

func (e engine) Info(context.Context) (swarm.Info, error) { return swarm.Info{State: e.state}, nil }

func TestUnfinished(t *testing.T) {
	plan := filepath.Join(t.TempDir(), "founding.json")
	for _, test := range []struct {
		summary     string
		state, want swarm.State
		plan        bool
	}{
		{"a swarm that stands", swarm.Active, swarm.Active, false},
		{"a swarm that is being made", swarm.Active, swarm.Pending, true},
		{"none yet", swarm.Inactive, swarm.Inactive, true},
		{"a locked one", swarm.Locked, swarm.Locked, true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if test.plan {
				if err := os.WriteFile(plan, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(plan)
			}
			info, err := (&unfinished{engine{state: test.state}, plan}).Info(t.Context())
			if err != nil || info.State != test.want || (info.Error != "") != (test.state != test.want) {
				t.Errorf("%+v, %v, want %s", info, err, test.want)
			}
		})
	}
}
