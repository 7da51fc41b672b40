package serving

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	key, err := versionKey(id, filepath.Join(s.o.ConfigDir, filepath.Base(enrol.IdentityDir)))
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

// versionsFile is the file of the identity folder that the builder lays where there are
// several controllers: a key that all of them have, in hexadecimal digits.
const versionsFile = "versions.key"

// versionKey is what the names of secrets' versions are made with, and of no other use:
// the key that all controllers have in common, so that another one that leads makes no
// new versions, and else one that follows from the controller's own.
func versionKey(id *enrol.Identity, dir string) ([]byte, error) {
	common, err := commonKey(filepath.Join(dir, versionsFile))
	if err != nil || common != nil {
		return common, err
	}
	private, err := id.Key().Bytes()
	if err != nil {
		return nil, fmt.Errorf("the controller's key: %w", err)
	}
	return hkdf.Key(sha256.New, private, nil, "hatchery: versions of secrets", sha256.Size)
}

// commonKey is nil where there is none. One that cannot be read is an error, since
// another key in its place would have services start anew.
func commonKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("the controllers' common key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return nil, fmt.Errorf("the controllers' common key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != sha256.Size {
		return nil, fmt.Errorf("the controllers' common key, %s, is not %d bytes in hexadecimal digits: build the controller's image again, and flash it", path, sha256.Size)
	}
	return key, nil
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
