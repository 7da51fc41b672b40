package kept

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"hatchery/internal/enrol"
)

// The calls, at the node and at the controller.
const (
	Path         = "/v1/kept"
	PathStream   = "/v1/kept/stream"
	PathRestored = "/v1/kept/restored" // at the controller alone
)

// The trailers of an archive's answer.
const (
	Trailer        = "Hatchery-Digest" // SHA-256 in lower-case hexadecimal
	FailureTrailer = "Hatchery-Failure"
)

// The codes of what is refused, beside enrol.BadRequest.
const (
	// InUse says that a container may write to what is to be saved.
	InUse enrol.Code = "in-use"
	// Failed says that something went wrong at the other end.
	Failed enrol.Code = "failed"
)

// The kinds of a root.
const (
	Volume = "volume" // of Docker, by its name
	File   = "path"   // a folder or a file, by its path
)

// How much the bodies may have.
const (
	MaxRoots = 4096
	MaxLeft  = 256
	MaxBody  = 2 << 20 // bytes of a Plan, an Offer or a Receipt
)

// A Root is a volume, or a path that is kept with all that is in it.
type Root struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`            // the volume's, or the absolute path
	Bytes int64  `json:"bytes,omitempty"` // of its files, without their holes
	Files int64  `json:"files,omitempty"` // and folders
}

// String is "volume data" or "/srv/data".
func (r Root) String() string {
	if r.Kind == Volume {
		return "volume " + r.Name
	}
	return r.Name
}

// Entry is where the root lies in an archive.
func (r Root) Entry() string {
	if r.Kind == Volume {
		return "volumes/" + r.Name
	}
	return "files" + r.Name
}

// volumeName is what Docker takes as a volume's name (moby volume/local,
// daemon/names), and anonymous one that it has made up.
var (
	volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)
	anonymous  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// IsVolume says whether a volume can have the name.
func IsVolume(name string) bool { return volumeName.MatchString(name) }

// IsAnonymous says whether Docker has made the name up: nobody can ask for such a
// volume again.
func IsAnonymous(name string) bool { return anonymous.MatchString(name) }

// Check says what is wrong with a root.
func (r Root) Check() error {
	switch {
	case r.Bytes < 0 || r.Files < 0:
		return fmt.Errorf("%.100q cannot have less than nothing", r.Name)
	case r.Kind == Volume && IsVolume(r.Name):
	case r.Kind == File && len(r.Name) < 4096 && path.IsAbs(r.Name) && path.Clean(r.Name) == r.Name && r.Name != "/" && !strings.ContainsRune(r.Name, 0):
	default:
		return fmt.Errorf("%.100q is neither a volume nor an absolute path", r.Name)
	}
	return nil
}

// Left is something that is not kept, and why.
type Left struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// A User is a container that runs and may write to what is to be saved.
type User struct {
	Container string   `json:"container"`
	Roots     []string `json:"roots"` // as Root.String has them
}

// A Plan is what a node would save.
type Plan struct {
	Roots []Root `json:"roots"`
	Left  []Left `json:"left,omitempty"`
	Bytes int64  `json:"bytes"` // of all of it
	Files int64  `json:"files"`
	Users []User `json:"users,omitempty"`
	// Unknown says why nobody knows whether containers use it.
	Unknown string `json:"unknown,omitempty"`
	// Fresh says that this root has not got yet what was kept of the former one, as
	// far as there was something.
	Fresh bool `json:"fresh,omitempty"`
}

// Check says what is wrong with what a node says.
func (p *Plan) Check() error {
	if p.Bytes < 0 || p.Files < 0 || len(p.Roots) > MaxRoots || len(p.Left) > MaxLeft {
		return fmt.Errorf("%d bytes in %d roots cannot be", p.Bytes, len(p.Roots))
	}
	return checkRoots(p.Roots)
}

func checkRoots(roots []Root) error {
	if len(roots) > MaxRoots {
		return fmt.Errorf("%d volumes and paths are more than %d", len(roots), MaxRoots)
	}
	seen := make(map[string]bool)
	for _, r := range roots {
		if err := r.Check(); err != nil {
			return err
		}
		if seen[r.Entry()] {
			return fmt.Errorf("%s is there twice", r)
		}
		seen[r.Entry()] = true
	}
	return nil
}

// An Order asks a node for its archive.
type Order struct {
	// Roots are what is wanted, of those of the Plan.
	Roots []Root `json:"roots"`
	// Force has it made although containers may write to it.
	Force bool `json:"force,omitempty"`
	// Most is how many bytes the archive may have.
	Most int64 `json:"most"`
}

// Check says what is wrong with an order.
func (o *Order) Check() error {
	if o.Most <= 0 || len(o.Roots) == 0 {
		return fmt.Errorf("an archive of %d roots with at most %d bytes is none", len(o.Roots), o.Most)
	}
	return checkRoots(o.Roots)
}

// An Offer is what the controller has for a node; without a digest, nothing.
type Offer struct {
	Digest string    `json:"digest,omitempty"`
	Bytes  int64     `json:"bytes,omitempty"` // the archive's
	Saved  time.Time `json:"saved,omitzero"`
	Roots  []Root    `json:"roots,omitempty"`
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// IsDigest says whether something is a SHA-256 in lower-case hexadecimal.
func IsDigest(s string) bool { return digest.MatchString(s) }

// Check says what is wrong with an offer.
func (o *Offer) Check() error {
	if o.Digest == "" {
		return nil
	}
	if !IsDigest(o.Digest) || o.Bytes <= 0 {
		return fmt.Errorf("an archive of %d bytes with digest %.80q is none", o.Bytes, o.Digest)
	}
	return checkRoots(o.Roots)
}

// A Receipt says that what was offered is in place.
type Receipt struct {
	Digest string `json:"digest"`
	Left   []Left `json:"left,omitempty"` // what was not put into place
}

// Check says what is wrong with a receipt.
func (r *Receipt) Check() error {
	if !IsDigest(r.Digest) || len(r.Left) > MaxLeft {
		return fmt.Errorf("a receipt for %.80q with %d exceptions is none", r.Digest, len(r.Left))
	}
	return nil
}

// stall is how long an archive may stand still on its way.
const stall = time.Minute

// Moving is an answer that may take its time, but not stand still.
func Moving(w http.ResponseWriter) io.Writer { return &moving{w, http.NewResponseController(w)} }

type moving struct {
	w          io.Writer
	controller *http.ResponseController
}

func (m *moving) Write(p []byte) (int, error) {
	// In pieces, so that each has its time on a link of 60 kB/s.
	n := 0
	for len(p) > 0 {
		if err := m.controller.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			return n, err
		}
		k, err := m.w.Write(p[:min(len(p), 64<<10)])
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}
