package preserve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// Reserve is what is left free on the root, in bytes.
const Reserve = 64 << 20

// ErrCall says that the controller did not answer, or that its answer broke off: it is asked
// again.
var ErrCall = errors.New("the controller cannot be asked")

// stall is how long the archive may stand still on its way.
const stall = 2 * time.Minute

// Done says whether this root needs nothing any more, and how that came.
func (k *Keeper) Done() (done bool, detail string, err error) {
	m, err := k.mark()
	if err != nil || m == nil || !m.Told {
		return false, "", err
	}
	if m.Digest == "" {
		return true, "nothing was kept for this root", nil
	}
	return true, back(m), nil
}

func back(m *mark) string {
	if len(m.Left) == 0 {
		return "what was kept is back"
	}
	var names []string
	for _, l := range m.Left[:min(len(m.Left), 5)] {
		names = append(names, l.Name)
	}
	return "what was kept is back, but for " + strings.Join(names, ", ")
}

// Restore asks the controller what it has kept for this root, puts it into place, and
// tells the controller. It is whole or begins again: unpacked beside, and put into place when all of it
// is there and is what was saved. What the image has in a place goes. Done says
// afterwards how it stands.
func (k *Keeper) Restore(ctx context.Context, tell func(format string, args ...any)) error {
	if tell == nil {
		tell = func(string, ...any) {}
	}
	m, err := k.mark()
	if err != nil {
		// Of a torn or strange mark nobody knows what it was: it is there, so this
		// root is not new, and what is in place is newer.
		return fmt.Errorf("%w; if nothing is missing, write {\"told\":true} to %s", err, filepath.Join(k.o.StateDir, markName))
	}
	if m == nil {
		if m, err = k.get(ctx, tell); err != nil {
			return err
		}
	}
	if !m.Told {
		// A power cut may have left what the image had.
		if err := os.RemoveAll(k.staging()); err != nil {
			k.o.Log.Warn("what the image had in place of what was kept cannot be removed", "error", err)
		}
		if err := k.call(ctx, http.MethodPost, kept.PathRestored, &kept.Receipt{Digest: m.Digest, Left: m.Left}, &struct{}{}); err != nil {
			return fmt.Errorf("cannot tell the controller that what it kept is back: %w", err)
		}
		m.Told = true
		if err := k.setMark(m); err != nil {
			return err
		}
	}
	return nil
}

// get gets what there is, puts it into place, and notes that.
func (k *Keeper) get(ctx context.Context, tell func(string, ...any)) (*mark, error) {
	var offer kept.Offer
	err := k.call(ctx, http.MethodGet, kept.Path, nil, &offer)
	var refused *enrol.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = nil // a controller of a former release keeps nothing
	}
	if err == nil {
		err = offer.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask what was kept for this root: %w", err)
	}
	staging := k.staging()
	// What an attempt before has left.
	if err := os.RemoveAll(staging); err != nil {
		return nil, fmt.Errorf("cannot make room for what was kept: %w", err)
	}
	m := &mark{Digest: offer.Digest, Told: offer.Digest == ""}
	if offer.Digest == "" {
		return m, k.setMark(m)
	}
	var roots, skipped []kept.Root
	for _, r := range offer.Roots {
		why := k.allowed(r)
		for _, other := range offer.Roots {
			// What is put back there first may lead elsewhere.
			if why == "" && other != r && within(k.place(r), k.place(other)) {
				why = "it is kept with " + other.String()
			}
		}
		if why == "" {
			roots = append(roots, r)
			continue
		}
		skipped = append(skipped, r)
		if len(m.Left) < kept.MaxLeft {
			m.Left = append(m.Left, kept.Left{Name: r.String(), Why: why})
		}
		k.o.Log.Warn("was kept and is not put back", "what", r.String(), "reason", why)
	}
	if len(roots) > 0 {
		if err := k.fetch(ctx, staging, &offer, roots, skipped, tell); err != nil {
			// Until it is asked for again, the root has its room.
			err = errors.Join(err, os.RemoveAll(staging))
			return nil, fmt.Errorf("cannot get what was kept for this root: %w", err)
		}
		if k.o.StopEngine != nil {
			if err := k.o.StopEngine(ctx); err != nil {
				return nil, fmt.Errorf("cannot put back what was kept: %w", err)
			}
		}
		for i, r := range roots {
			tell("putting back %s", r)
			if err := k.putBack(staging, i, r); err != nil {
				return nil, fmt.Errorf("cannot put back %s: %w", r, err)
			}
		}
	}
	return m, k.setMark(m)
}

// fetch unpacks an archive into a folder, each root under its number.
func (k *Keeper) fetch(ctx context.Context, staging string, offer *kept.Offer, roots, skipped []kept.Root, tell func(string, ...any)) error {
	need := int64(0)
	for _, r := range roots {
		need += r.Bytes
		if need < 0 {
			return bad("it says that it is larger than anything can be")
		}
	}
	// What the archive is at the most; holes come back as holes.
	need = min(need, offer.Bytes)
	if free, err := k.o.Free(k.o.StateDir); err != nil {
		return fmt.Errorf("cannot see how much room there is: %w", err)
	} else if free-Reserve < need {
		return fmt.Errorf("it has %d MiB, and the root has room for %d: a larger card is needed, or what is kept of this slot has to be dropped on the controller", need>>20, max(free-Reserve, 0)>>20)
	}
	if err := os.MkdirAll(staging, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing moved for %v", stall)) })
	defer watch.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.o.URL(kept.PathStream), nil)
	if err != nil {
		return err
	}
	answer, err := k.o.HTTP().Do(request)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%w: %w", ErrCall, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusal(answer)
	}
	sum := sha256.New()
	var n, told int64
	body := readerFunc(func(p []byte) (int, error) {
		got, err := answer.Body.Read(p)
		if got > 0 {
			watch.Reset(stall)
		}
		sum.Write(p[:got])
		if n += int64(got); n > offer.Bytes {
			return 0, bad("it has more than the %d bytes that were announced", offer.Bytes)
		}
		if n-told >= 4<<20 {
			told = n
			tell("getting back what was kept: %d of %d MiB", n>>20, offer.Bytes>>20)
		}
		return got, err
	})
	place := make(map[kept.Root]int)
	for i, r := range roots {
		place[r] = i
	}
	room := func() error {
		if free, err := k.o.Free(k.o.StateDir); err != nil {
			return fmt.Errorf("cannot see how much room there is: %w", err)
		} else if free < Reserve/2 {
			return fmt.Errorf("the root has no room for it: after %d of %d MiB %d are left: a larger card is needed, or what is kept of this slot has to be dropped on the controller", n>>20, offer.Bytes>>20, free>>20)
		}
		return nil
	}
	if err := unpack(ctx, body, staging, place, skipped, room); err != nil {
		return err
	}
	// What comes after the tar's end belongs to the digest.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return broken(ctx, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != offer.Digest {
		return bad("its digest is %s, not %s", got, offer.Digest)
	}
	// All of it is on the card before anything of it is in place.
	f, err := os.Open(staging)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot write it to the card: %w", err)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// putBack puts a root into its place, in one step. What was there is where it came
// from, afterwards.
func (k *Keeper) putBack(staging string, n int, r kept.Root) error {
	from, to := filepath.Join(staging, strconv.Itoa(n)), k.place(r)
	if r.Kind == kept.Volume {
		// As Docker makes them (20.10: 0701 root, and volumes/ the same; newer 0711,
		// 0701).
		if err := os.MkdirAll(k.o.DockerRoot, 0o710); err != nil {
			return err
		}
		if err := os.Mkdir(k.volumes(), 0o701); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	} else if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	switch _, err := os.Lstat(to); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Rename(from, to); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		k.o.Log.Info("what was kept takes the place of what the image has", "path", to)
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			// A file system without it. A power cut in between begins all over.
			if err = os.Rename(to, from+"-image"); err == nil {
				err = os.Rename(from, to)
			}
		}
		if err != nil {
			return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
		}
	}
	return errors.Join(atomicfile.SyncDir(filepath.Dir(to)), atomicfile.SyncDir(staging))
}

// call makes a small call to the controller.
func (k *Keeper) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, k.o.URL(path), content)
	if err != nil {
		return err
	}
	// It may be made twice: where a kept connection turns out to be closed, it is.
	request.Header["Idempotency-Key"] = []string{}
	answer, err := k.o.HTTP().Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCall, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusal(answer)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, kept.MaxBody+1))
	if err == nil && len(data) > kept.MaxBody {
		err = fmt.Errorf("the answer has more than %d bytes", kept.MaxBody)
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	return err
}

// refusal is what the controller says that does not want to.
func refusal(answer *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	e := new(enrol.Error)
	if json.Unmarshal(data, e) != nil || e.Code == "" {
		e.Detail = "the controller answered " + strconv.Itoa(answer.StatusCode)
	}
	e.Status = answer.StatusCode
	return e
}
