package founding

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarmbackup"
)

// Backups are the swarm's backups that the nodes keep: Keepers are.
type Backups interface {
	// Offers asks nodes which backups they have: the newest first. answered
	// are the slots that answered, with or without one. What a node does
	// wrong is no error: it has not answered. One that a person laid for this
	// is offered too; it is an error if it cannot be opened.
	Offers(ctx context.Context, nodes []nodefile.Target) (offers []Backup, answered []int, err error)
}

// A Backup is one that nodes keep.
type Backup interface {
	// ID is the backup's own, whichever node has it.
	ID() string
	// String is the backup for people: when it was taken, and who keeps it.
	String() string
	// Restore makes the folder swarm in Docker's, which has none, whole or not
	// at all. The engine is stopped. What else is in the backup is restored
	// too; keepState says that what the service has is newer, and stays.
	Restore(ctx context.Context, dockerRoot string, keepState bool) error
}

// Keepers are nodes that are asked as package swarmbackup does.
type Keepers struct {
	Client *swarmbackup.Client
	// Identity is the controller's: backups are sealed to it.
	Identity *enrol.Identity
	// Folder is where a backup lies while it is restored: /var/lib/hatchery.
	Folder string
	// ServiceState is the folder of the controller's service; "": what a
	// backup has of it is left out.
	ServiceState string
	// ByHand is where a person may lay a backup: /var/lib/hatchery/backups/restore.
	// Its swarm is the one that is wanted; where nodes keep a later backup of
	// that, it is taken. "": nobody lays any.
	ByHand string
}

// HandFile is the file in the agent's folder where a person may lay a backup.
const HandFile = nodefile.BackupsDir + "/restore"

// Used ends the name of a backup that a person laid and that was restored.
const Used = ".used"

// Offers asks nodes which backups they have.
func (k *Keepers) Offers(ctx context.Context, targets []nodefile.Target) (offers []Backup, answered []int, err error) {
	var nodes []swarmbackup.Node
	for _, t := range targets {
		nodes = append(nodes, swarmbackup.Node{Name: t.Name, Slot: t.Slot, Addr: t.Address})
	}
	survey := k.Client.Survey(ctx, nodes)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	for _, n := range survey.Answered {
		answered = append(answered, n.Slot)
	}
	all, err := k.addByHand(ctx, survey.Offers)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range all {
		offers = append(offers, &offered{k, o})
	}
	return offers, answered, nil
}

// addByHand adds the backup that a person laid, if there is one, and puts its
// swarm's first.
func (k *Keepers) addByHand(ctx context.Context, offers []swarmbackup.Offer) ([]swarmbackup.Offer, error) {
	if k.ByHand == "" {
		return offers, nil
	}
	f, err := os.Open(k.ByHand)
	if errors.Is(err, fs.ErrNotExist) {
		return offers, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	label, err := swarmbackup.Check(ctx, f, k.Identity)
	if err != nil {
		return nil, fmt.Errorf("%s, which was laid there to be restored, cannot be: %w (lay the right one, or remove it)", k.ByHand, err)
	}
	id, size, err := swarmbackup.FileID(k.ByHand)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(offers, func(o swarmbackup.Offer) bool { return o.ID == id }) {
		offers = append(offers, swarmbackup.Offer{ID: id, Bytes: size, Label: *label})
		swarmbackup.NewestFirst(offers)
	}
	swarmFirst(offers, label.Swarm)
	return offers, nil
}

// swarmFirst puts a swarm's backups first, and leaves the order otherwise.
func swarmFirst(offers []swarmbackup.Offer, id string) {
	rank := func(o swarmbackup.Offer) int {
		if o.Label.Swarm == id {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(offers, func(a, b swarmbackup.Offer) int { return rank(a) - rank(b) })
}

// offered is a backup that nodes say they have.
type offered struct {
	*Keepers
	offer swarmbackup.Offer
}

func (o *offered) ID() string { return o.offer.ID }

func (o *offered) String() string {
	taken := o.offer.Label.Taken.UTC().Format(time.RFC3339)
	if len(o.offer.Nodes) == 0 {
		return fmt.Sprintf("the backup of %s in %s", taken, o.ByHand)
	}
	var names []string
	for _, n := range o.offer.Nodes {
		names = append(names, n.Name)
	}
	return fmt.Sprintf("the backup of %s that %s has", taken, strings.Join(names, ", "))
}

// Restore fetches the backup from the first node that gives it whole, and puts
// it in its place.
func (o *offered) Restore(ctx context.Context, dockerRoot string, keepState bool) error {
	if len(o.offer.Nodes) == 0 {
		if err := o.restore(ctx, o.ByHand, dockerRoot, keepState); err != nil {
			return err
		}
		// It has served: a swarm that is made later is not to give way to it.
		// Where it cannot be renamed, what nodes keep of its swarm is newer.
		_ = os.Rename(o.ByHand, o.ByHand+Used)
		return nil
	}
	place := filepath.Join(o.Folder, "restore"+swarmbackup.Suffix)
	defer os.Remove(place)
	var errs []error
	for _, node := range o.offer.Nodes {
		err := o.Client.Get(ctx, node, o.offer.ID, place, &o.offer.Label)
		if err == nil {
			return o.restore(ctx, place, dockerRoot, keepState)
		}
		if ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o *offered) restore(ctx context.Context, place, dockerRoot string, keepState bool) error {
	f, err := os.Open(place)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = swarmbackup.Restore(ctx, f, swarmbackup.Target{
		Identity:   o.Identity,
		DockerRoot: dockerRoot,
		State:      o.ServiceState,
		KeepState:  keepState,
	})
	return err
}
