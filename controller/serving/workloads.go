package serving

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"time"

	"hatchery/controller"
	"hatchery/controller/workload"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// configsDir is the folder, of the service's, where configs that are pushed wait for
// the swarm.
const configsDir = "configs"

// openWorkloads gets ready what is declared to run. It is nil without Docker.
func (s *operating) openWorkloads(id *enrol.Identity, engine *swarm.Engine) (*workload.Service, error) {
	if !s.node.Docker {
		return nil, nil
	}
	key, err := versionKey(id)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(s.o.StateDir, nodefile.ServiceDir)
	return workload.New(workload.Options{
		Node: s.node, Engine: engine, Key: key, Log: s.o.Log, Limits: s.o.Workloads,
		Image:      filepath.Join(s.o.ConfigDir, filepath.Base(nodefile.Workloads)),
		StateDir:   state,
		SecretsDir: filepath.Join(s.o.StateDir, filepath.Base(nodefile.SecretsDir)),
		ConfigsDir: filepath.Join(state, configsDir),
		Told: func(detail string) {
			s.tell(controller.Event{Time: time.Now(), Kind: controller.EventWorkloads, Detail: detail})
		},
	})
}

// versionKey is what the names of secrets' versions are made with: the controller's
// own, and of no other use.
func versionKey(id *enrol.Identity) ([]byte, error) {
	private, err := id.Key().Bytes()
	if err != nil {
		return nil, fmt.Errorf("the controller's key: %w", err)
	}
	return hkdf.Key(sha256.New, private, nil, "hatchery: versions of secrets", sha256.Size)
}

// workloadsView is what the cluster's view says of them, nil where nothing is declared.
func (s *operating) workloadsView() *enrol.WorkloadsView {
	if s.workloads == nil {
		return nil
	}
	v := s.workloads.View()
	if v.State == workload.StateNone && len(v.Stacks) == 0 {
		return nil
	}
	shown := &enrol.WorkloadsView{State: v.State, Detail: v.Detail, Since: v.Since}
	for _, each := range v.Stacks {
		shown.Stacks = append(shown.Stacks, enrol.StackView{Name: each.Name, State: each.State, Detail: each.Detail})
	}
	return shown
}
