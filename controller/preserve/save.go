package preserve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/hearsay"
	"hatchery/internal/kept"
)

// Tell says what is being done, as operations show it: the step, and how far it is.
type Tell = func(step, detail string)

// step is Save's, for Tell.
const step = "save"

// Plan asks a slot's node what would be kept of it. ErrDamaged where it would not be.
func (k *Keeper) Plan(ctx context.Context, slot int) (*kept.Plan, error) {
	if err := k.known(slot); err != nil {
		return nil, err
	}
	p := new(kept.Plan)
	if err := k.ask(ctx, slot, http.MethodGet, kept.Path, nil, p); err != nil {
		return nil, fmt.Errorf("cannot ask %s what is to be kept of it: %w", clusterctrl.SlotName(slot), err)
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("cannot use what %s says that it would keep: %w", clusterctrl.SlotName(slot), err)
	}
	for i := range p.Left {
		p.Left[i].Name, p.Left[i].Why = hearsay.Line(p.Left[i].Name, 256), hearsay.Line(p.Left[i].Why, 256)
	}
	for i := range p.Users {
		p.Users[i].Container = hearsay.Line(p.Users[i].Container, 128)
		for j := range p.Users[i].Roots {
			p.Users[i].Roots[j] = hearsay.Line(p.Users[i].Roots[j], 256)
		}
	}
	p.Unknown = hearsay.Line(p.Unknown, 512)
	return p, nil
}

func (k *Keeper) save(ctx context.Context, slot int, operation string, tell Tell, force bool) error {
	name := clusterctrl.SlotName(slot)
	if tell == nil {
		tell = func(string, string) {}
	}
	release, err := k.take(slot)
	if err != nil {
		return err
	}
	defer release()
	tell(step, "asking what there is")
	k.mu.Lock()
	had := k.slots[slot]
	k.mu.Unlock()
	plan, err := k.Plan(ctx, slot)
	switch {
	case errors.Is(err, ErrUnreachable) && had.waits() && ctx.Err() == nil:
		return k.stays(slot, operation, tell, "the node does not answer, and has not got what was kept before")
	case err != nil:
		return err
	case plan.Fresh && had != nil && (had.waits() || had.Withheld):
		return k.stays(slot, operation, tell, "what was kept before is not back on the node yet")
	case len(plan.Roots) == 0:
		// There is nothing to keep; and the next root is not to get what this one has thrown away.
		tell(step, "there is nothing to keep")
		return k.Withhold(slot, operation)
	}
	if !force && had != nil && had.Restored && !had.Aside && len(had.NotRestored) > 0 {
		// The archive is the only place where that is.
		return fmt.Errorf("%[1]s did not take back %[2]s: fetch it first: `hatchery rebuild --kept %[1]s --to FILE`, then `hatchery rebuild --kept %[1]s --drop`", name, missed(had.NotRestored))
	}
	if !force && (len(plan.Users) > 0 || plan.Unknown != "") {
		return fmt.Errorf("cannot keep what %s has: %w: %s; stop them, or do without what they write meanwhile", name, ErrInUse, users(plan))
	}
	if err := k.room(plan, had); err != nil {
		return fmt.Errorf("cannot keep what %s has: %w", name, err)
	}
	r, err := k.fetch(ctx, slot, plan, force, tell)
	if err != nil {
		return fmt.Errorf("cannot keep what %s has: %w", name, err)
	}
	r.Operation = operation
	if had != nil {
		r.Former = had.Digest
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Noted, then at its place: there is no archive that no record knows of, whenever the
	// power goes.
	if err := k.write(slot, r); err != nil {
		return errors.Join(err, os.Remove(k.part(slot)))
	}
	if err := os.Rename(k.part(slot), k.archive(slot, r.Digest)); err != nil {
		if had != nil {
			return errors.Join(err, k.write(slot, had))
		}
		return errors.Join(err, k.forget(slot))
	}
	if err := atomicfile.SyncDir(k.o.Dir); err != nil {
		return err
	}
	if had != nil && k.archive(slot, had.Digest) != k.archive(slot, r.Digest) {
		if err := os.Remove(k.archive(slot, had.Digest)); err != nil {
			k.o.Log.Warn("what was kept before cannot be removed", "slot", name, "error", err)
		}
	}
	k.o.Log.Info("what outlives a new root is kept", "slot", name, "bytes", r.Bytes, "stored", r.Stored)
	return nil
}

// missed names what a node did not put into place, and why.
func missed(left []kept.Left) string {
	var all []string
	for i, l := range left {
		if i == 5 {
			all = append(all, "…")
			break
		}
		all = append(all, fmt.Sprintf("%s (%s)", l.Name, l.Why))
	}
	return strings.Join(all, ", ")
}

// users says who uses what.
func users(p *kept.Plan) string {
	if len(p.Users) == 0 {
		return p.Unknown
	}
	var all []string
	for i, u := range p.Users {
		if i == 5 {
			all = append(all, "…")
			break
		}
		all = append(all, u.Container+" has "+strings.Join(u.Roots[:min(len(u.Roots), 5)], ", "))
	}
	return strings.Join(all, "; ")
}

// What an archive has beside the files' bytes: header is at most so much a file, with a long
// name and some attributes, and padded is what it usually is.
const (
	header = 4 << 10
	padded = 1 << 10
)

// most is how large the archive of a plan may become.
func (k *Keeper) most(p *kept.Plan) int64 {
	return min(p.Bytes+p.Bytes/64+(p.Files+16)*header+1<<20, k.o.Quota)
}

// room sees that there is room for what is planned.
func (k *Keeper) room(p *kept.Plan, had *record) error {
	if p.Bytes > k.o.Quota || p.Bytes < 0 || p.Files > k.o.Quota/padded || p.Bytes+p.Files*padded > k.o.Quota {
		return fmt.Errorf("%w: %s, and at most %s of a slot are kept; %s", ErrTooBig, size(p.Bytes), size(k.o.Quota), biggest(p))
	}
	free, err := k.o.Free(k.o.Dir)
	if err != nil {
		return fmt.Errorf("cannot see how much room the controller's card has: %w", err)
	}
	if free-Reserve < p.Bytes+p.Files*512 {
		return fmt.Errorf("%w: %s, and the controller's card has room for %s; %s", ErrTooBig, size(p.Bytes), size(max(free-Reserve, 0)), biggest(p))
	}
	return nil
}

// biggest names what takes most, and what to do about it.
func biggest(p *kept.Plan) string {
	roots := slices.Clone(p.Roots)
	slices.SortStableFunc(roots, func(a, b kept.Root) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	var all []string
	for _, r := range roots[:min(len(roots), 3)] {
		all = append(all, fmt.Sprintf("%s has %s", r, size(r.Bytes)))
	}
	return strings.Join(all, ", ") + ": copy it elsewhere, or take it out of `keep:` in cluster.yaml"
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", (n+1023)>>10)
}

// fetch fetches a slot's archive to its place.
func (k *Keeper) fetch(ctx context.Context, slot int, plan *kept.Plan, force bool, tell Tell) (*record, error) {
	order := kept.Order{Roots: plan.Roots, Force: force, Most: k.most(plan)}
	r := &record{Left: plan.Left}
	// Under a name that the archive's own takes the place of once it is noted.
	part := k.part(slot)
	f, err := atomicfile.Create(part, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Discard()
	err = k.call(ctx, slot, http.MethodPost, kept.PathStream, &order, func(body io.Reader, answer *http.Response) error {
		sum := sha256.New()
		counted := &counter{w: sum, tell: func(n int64) {
			tell(step, fmt.Sprintf("%s of %s", size(n), size(plan.Bytes)))
		}}
		to, err := zstd.NewWriter(&roomy{w: f, look: k.full}, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			return err
		}
		defer to.Close()
		n, err := io.Copy(io.MultiWriter(counted, to), io.LimitReader(body, order.Most+1))
		switch {
		case err != nil:
			return fmt.Errorf("the archive broke off after %s: %w", size(n), err)
		case n > order.Most:
			return fmt.Errorf("%w: it has more than %s, which the node did not say before", ErrTooBig, size(order.Most))
		}
		digest := answer.Trailer.Get(kept.Trailer)
		if digest == "" {
			return fmt.Errorf("the node could not finish the archive: %s", hearsay.Line(answer.Trailer.Get(kept.FailureTrailer), 512))
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
			return errors.New("the archive was damaged on its way")
		}
		r.Offer = kept.Offer{Digest: digest, Bytes: n, Saved: time.Now().UTC().Truncate(time.Second), Roots: plan.Roots}
		return to.Close()
	})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r.Stored = info.Size()
	return r, f.Commit()
}

// full says that the controller's card has no more room than is left free on it.
func (k *Keeper) full() error {
	free, err := k.o.Free(k.o.Dir)
	if err != nil {
		return fmt.Errorf("cannot see how much room the controller's card has: %w", err)
	}
	if free < Reserve {
		return fmt.Errorf("%w: the controller's card has less than %s left, which are not for it", ErrTooBig, size(Reserve))
	}
	return nil
}

// lookEvery is how many bytes are written until the room is looked at again.
const lookEvery = 1 << 20

// A roomy writer looks now and then whether there is room.
type roomy struct {
	w       io.Writer
	written int64 // since it looked
	look    func() error
}

func (r *roomy) Write(p []byte) (int, error) {
	if r.written += int64(len(p)); r.written >= lookEvery {
		r.written = 0
		if err := r.look(); err != nil {
			return 0, err
		}
	}
	return r.w.Write(p)
}

// A counter counts what goes through it, and tells every 16 MiB.
type counter struct {
	w       io.Writer
	n, told int64
	tell    func(n int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.n-c.told >= 16<<20 {
		c.told = c.n
		c.tell(c.n)
	}
	return n, err
}
