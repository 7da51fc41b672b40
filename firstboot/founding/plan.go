package founding

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"hatchery/internal/atomicfile"
	"hatchery/internal/swarm"
)

// PlanFile is the name of the file in Founding.StateDir that says what is
// under way. There is none while nothing is.
const PlanFile = "founding.json"

// The stages. Each is begun again from its start where it was broken off.
const (
	stageCopy    = "copy"    // the engine is stopped, the swarm's folder copied aside, and made ready for force
	stageForce   = "force"   // what lies in Docker's folder is opened by force
	stageAside   = "aside"   // the engine is stopped, and the swarm's folder set aside
	stageRestore = "restore" // the engine is stopped, and a backup put into Docker's folder
	stageInit    = "init"    // a new swarm is made
)

// maxPlan is more than a plan takes, in bytes.
const maxPlan = 1 << 16

// A plan is founding.json.
type plan struct {
	Stage string `json:"stage"`
	// Stopped says that the engine was stopped, and is to be started again.
	Stopped bool `json:"stopped,omitempty"`
	// Restart says that the engine is to be restarted when the swarm is up:
	// the manager that runs in it does not do all it should (swarm.Engine.Init).
	Restart bool   `json:"restart,omitempty"`
	Why     string `json:"why,omitempty"` // what was wrong
	Tries   int    `json:"tries,omitempty"`
	// Copied says that the folder as it was found lies beside.
	Copied   bool     `json:"copied,omitempty"`
	Backup   string   `json:"backup,omitempty"`   // whose content Docker's folder has, or is to have
	Describe string   `json:"describe,omitempty"` // that backup, for people
	Bad      []string `json:"bad,omitempty"`      // backups that could not be opened
	Kept     []string `json:"kept,omitempty"`     // folders that were set aside
}

// parsePlan reads the content of a founding.json.
func parsePlan(data []byte) (plan, error) {
	var p plan
	if len(data) > maxPlan {
		return plan{}, fmt.Errorf("has more than %d bytes", maxPlan)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return plan{}, err
	}
	switch p.Stage {
	case "", stageCopy, stageForce, stageAside, stageRestore, stageInit:
		return p, nil
	}
	return plan{}, fmt.Errorf("names the stage %q, which this agent does not know", p.Stage)
}

// recall reads what was under way. A plan that cannot be read is set aside:
// what lies in Docker's folder is judged anew, and kept.
func (g *going) recall() (plan, error) {
	place := filepath.Join(g.StateDir, PlanFile)
	f, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return plan{}, nil
	}
	if err != nil {
		return plan{}, fmt.Errorf("cannot read what is under way with the swarm: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	f.Close()
	if err != nil {
		return plan{}, fmt.Errorf("cannot read what is under way with the swarm: %w", err)
	}
	p, err := parsePlan(data)
	if err == nil {
		g.noted = true
		return p, nil
	}
	g.log("what was under way with the swarm cannot be read", "file", place, "error", err.Error())
	if err := os.Rename(place, place+".broken"); err != nil {
		return plan{}, fmt.Errorf("%s cannot be read, and not set aside: %w", place, err)
	}
	return plan{}, nil
}

// begin notes the stage that comes next.
func (g *going) begin(stage string, why error) error {
	g.plan.Stage = stage
	if why != nil {
		g.plan.Why = why.Error()
	}
	return g.remember()
}

func (g *going) remember() error {
	data, err := json.MarshalIndent(g.plan, "", "  ")
	if err == nil {
		err = os.MkdirAll(g.StateDir, 0o755)
	}
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(g.StateDir, PlanFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note what is under way with the swarm: %w", err)
	}
	g.noted = true
	return nil
}

// forget ends what was under way.
func (g *going) forget() error {
	g.plan, g.noted = plan{}, false
	if err := os.Remove(filepath.Join(g.StateDir, PlanFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot note that the swarm stands: %w", err)
	}
	return atomicfile.SyncDir(g.StateDir)
}

// SwarmFile is the name of the file in Founding.StateDir that says which swarm
// was there last. On a card that was flashed anew there is none: then a backup
// is newer than anything that the controller's service may have written since.
const SwarmFile = "swarm.json"

// A lastSwarm is swarm.json.
type lastSwarm struct {
	ClusterID string `json:"cluster_id"`
	NodeID    string `json:"node_id"`
}

// note notes which swarm stands.
func (g *going) note(info swarm.Info) error {
	data, err := json.Marshal(lastSwarm{info.ClusterID, info.NodeID})
	if err != nil {
		return err
	}
	data = append(data, '\n')
	place := filepath.Join(g.StateDir, SwarmFile)
	if old, err := os.ReadFile(place); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(g.StateDir, 0o755); err != nil {
		return fmt.Errorf("cannot note which swarm stands: %w", err)
	}
	return atomicfile.WriteBytes(place, data, 0o644)
}

// stoodBefore says that a swarm has stood on this card.
func (g *going) stoodBefore() bool {
	_, err := os.Stat(filepath.Join(g.StateDir, SwarmFile))
	return err == nil
}

// found notes the backup that is to be restored.
func (g *going) found(b Backup) {
	if g.plan.Backup != b.ID() {
		g.plan.Backup, g.plan.Tries = b.ID(), 0
	}
	g.plan.Describe, g.plan.Copied = b.String(), false
	g.backup = b
}

// reopen makes the swarm's folder ready for being opened by force: a copy of
// it lies beside, and Docker's own file is gone, without which the engine
// starts as part of no swarm and takes the folder up when it is told to.
func (g *going) reopen(ctx context.Context) error {
	g.tell("making the swarm's folder ready to be opened by force: %s", g.plan.Why)
	if err := g.stop(ctx); err != nil {
		return err
	}
	dir := g.swarmDir()
	if holdsSwarm(dir) {
		// A backup that was put there needs no copy: nodes have it.
		if !g.plan.Copied && g.plan.Backup == "" {
			kept, err := keepCopy(ctx, dir)
			if err != nil {
				return fmt.Errorf("cannot copy the swarm's folder aside: %w", err)
			}
			g.log("the swarm's folder was copied aside", "folder", kept, "why", g.plan.Why)
			g.plan.Copied, g.plan.Kept = true, append(g.plan.Kept, kept)
			if err := g.remember(); err != nil {
				return err
			}
		}
		// The managers and tasks that it knew are made anew by force.
		if err := os.RemoveAll(filepath.Join(dir, workerDir)); err != nil {
			return fmt.Errorf("cannot make the swarm's folder ready: %w", err)
		}
		for _, name := range []string{remotesState, dockerState} {
			if err := unlink(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("cannot make the swarm's folder ready: %w", err)
			}
		}
		if err := g.begin(stageForce, nil); err != nil {
			return err
		}
	} else if err := g.begin(stageAside, nil); err != nil {
		return err
	}
	return g.start(ctx)
}

// setAside moves the swarm's folder aside, so that there is none. One that a
// backup was put into is deleted: the nodes have it.
func (g *going) setAside(ctx context.Context) error {
	g.tell("setting the swarm's folder aside: %s", g.plan.Why)
	if err := g.stop(ctx); err != nil {
		return err
	}
	dir := g.swarmDir()
	switch {
	case g.plan.Backup != "":
		g.plan.Bad = append(g.plan.Bad, g.plan.Backup)
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot remove the backup that could not be opened: %w", err)
		}
	case g.plan.Copied:
		// As it was found it lies beside already.
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot clear the swarm's folder: %w", err)
		}
	default:
		if err := g.clear(dir); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(g.DockerRoot); err != nil {
		return err
	}
	g.plan.Backup, g.plan.Describe, g.plan.Tries, g.plan.Copied = "", "", 0, false
	if err := g.begin("", nil); err != nil {
		return err
	}
	return g.start(ctx)
}

// clear makes that there is no folder of a swarm. Whatever it holds lies
// beside it afterwards.
func (g *going) clear(dir string) error {
	if !holdsFiles(dir) {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot clear the swarm's folder: %w", err)
		}
		return nil
	}
	kept, err := keepMoved(dir)
	if err != nil {
		return fmt.Errorf("cannot set the swarm's folder aside: %w", err)
	}
	g.log("the swarm's folder was set aside", "folder", kept, "why", g.plan.Why)
	g.plan.Kept = append(g.plan.Kept, kept)
	return nil
}

// restore puts a backup into Docker's folder.
func (g *going) restore(ctx context.Context) error {
	dir := g.swarmDir()
	if !holdsSwarm(dir) && (g.backup == nil || g.backup.ID() != g.plan.Backup) {
		// Another run found it: it is asked for again, with the engine as it is.
		found, err := g.seek(ctx)
		if err != nil {
			return err
		}
		if found == nil {
			g.plan.Backup, g.plan.Describe = "", ""
			if err := g.begin("", nil); err != nil {
				return err
			}
			return g.start(ctx)
		}
		g.found(found)
		if err := g.remember(); err != nil {
			return err
		}
	}
	g.tell("recovering the swarm from %s", g.plan.Describe)
	if err := g.stop(ctx); err != nil {
		return err
	}
	if !holdsSwarm(dir) {
		if err := g.clear(dir); err != nil {
			return err
		}
		if g.Service != "" {
			if err := g.Units.StopUnit(ctx, g.Service); err != nil {
				return fmt.Errorf("cannot stop %s: %w", g.Service, err)
			}
		}
		if err := g.backup.Restore(ctx, g.DockerRoot, g.stoodBefore()); err != nil {
			g.plan.Tries++
			if g.plan.Tries >= maxForce {
				g.plan.Bad = append(g.plan.Bad, g.plan.Backup)
				g.plan.Backup, g.plan.Describe, g.plan.Stage = "", "", ""
			}
			return errors.Join(fmt.Errorf("cannot recover the swarm from %s: %w", g.backup, err), g.remember(), g.start(ctx))
		}
		g.log("the swarm's folder was restored", "backup", g.plan.Describe)
	}
	g.plan.Tries = 0
	if err := unlink(filepath.Join(dir, dockerState)); err != nil {
		return fmt.Errorf("cannot make the swarm's folder ready: %w", err)
	}
	if err := g.begin(stageForce, nil); err != nil {
		return err
	}
	return g.start(ctx)
}
