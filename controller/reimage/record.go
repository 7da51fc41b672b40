package reimage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// The phases of a slot whose card is written. See the package's comment.
const (
	Arming  = "arming"
	Armed   = "armed"
	Asked   = "asked"
	Writing = "writing"
	Done    = "done"
)

// rank orders the phases.
var rank = map[string]int{Arming: 1, Armed: 2, Asked: 3, Writing: 4, Done: 5}

// A record is what the service knows of a slot whose card is written. Everything is
// guarded by the service's lock.
type record struct {
	kept

	progress  wire.Progress
	prep      *preparation
	armedAt   time.Time // in this run of the service
	lastNode  time.Time // when cmd/reimage was heard
	lastAgent time.Time // when the agent was heard
	agentBoot string    // in which boot that was
	doneAt    time.Time
	left      time.Time // since when nobody is at work with it
	rescued   time.Time // when its node was started over its link, to go on
	revivedAt time.Time // when it was tried last to switch it off and on
	reviving  bool      // that is being done
	trouble   trouble
	streams   int           // of pieces, that are under way
	changed   chan struct{} // capacity 1: wakes whoever waits for the slot
	finished  chan struct{} // closed when the record is gone
	result    error         // why it went
}

// kept is what of a record survives the service.
type kept struct {
	Operation string     `json:"operation"`
	Root      store.Root `json:"root"` // what the card is to hold
	Phase     string     `json:"phase"`
	Undo      bool       `json:"undo,omitempty"` // Root is what the slot had before
	// Held is what the card was written with by then, as long as it holds that and
	// its node was not heard of since; nil where it holds what the store says, or
	// where it is begun.
	Held   *store.Root `json:"held,omitempty"`
	BootID string      `json:"boot_id,omitempty"` // in which the node was armed
	Arms   int         `json:"arms,omitempty"`    // how often it was
	// Revived is how often it was switched off and on since somebody waited for it.
	Revived int       `json:"revived,omitempty"`
	Since   time.Time `json:"since"`
}

const (
	recordsFile   = "reimage.json"
	recordsFormat = 1
	largestFile   = 4 << 20
)

type recordsOnDisk struct {
	Format int             `json:"format"`
	Slots  map[string]kept `json:"slots"`
}

func newRecord(k kept) *record {
	return &record{kept: k, left: time.Now(), changed: make(chan struct{}, 1), finished: make(chan struct{})}
}

// poke wakes whoever waits for the slot. The caller holds the lock.
func (r *record) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// readRecords reads what another run of the service left. What is damaged is set aside: a
// service that does not start leaves every card that is begun as it is, and one without
// records takes up the nodes that say that theirs are (Service.adopt).
func readRecords(dir string, log *slog.Logger) (map[int]*record, error) {
	place := filepath.Join(dir, recordsFile)
	info, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return map[int]*record{}, nil
	}
	if err == nil && info.Mode().IsRegular() && info.Size() > largestFile {
		return setAside(place, fmt.Errorf("it has %d bytes", info.Size()), log)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(place)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which cards are being written: %w", err)
	}
	records, err := decodeRecords(data)
	if err != nil {
		return setAside(place, err, log)
	}
	return records, nil
}

// maxAside bounds how many damaged files are kept beside each other. The last one goes for
// the next.
const maxAside = 9

// setAside moves records that are damaged out of the way, and gives none in their place.
func setAside(place string, why error, log *slog.Logger) (map[int]*record, error) {
	aside := place + ".damaged"
	for n := 2; n <= maxAside; n++ {
		if _, err := os.Lstat(aside); err != nil {
			break
		}
		aside = fmt.Sprintf("%s.damaged-%d", place, n)
	}
	err := os.Rename(place, aside)
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(place))
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not say which cards are being written: %w, and it cannot be set aside: %w (remove it: nodes whose cards are begun get what their slots are to have)", place, why, err)
	}
	log.Error("which cards were being written cannot be read: the file is set aside, and nodes whose cards are begun get what their slots are to have", "file", aside, "error", why)
	return map[int]*record{}, nil
}

func decodeRecords(data []byte) (map[int]*record, error) {
	var disk recordsOnDisk
	if err := json.Unmarshal(data, &disk); err != nil {
		return nil, err
	}
	if disk.Format != recordsFormat {
		return nil, fmt.Errorf("format %d, but only %d is known here", disk.Format, recordsFormat)
	}
	records := map[int]*record{}
	for name, k := range disk.Slots {
		slot, err := strconv.Atoi(name)
		if err != nil || slot < clusterctrl.MinSlot || slot > clusterctrl.MaxSlot || strconv.Itoa(slot) != name {
			return nil, fmt.Errorf("%.20q is no slot", name)
		}
		if err := k.check(slot); err != nil {
			return nil, fmt.Errorf("slot %d: %w", slot, err)
		}
		records[slot] = newRecord(k)
	}
	return records, nil
}

// maxArmsKept bounds how often a slot may have been armed, by its record.
const maxArmsKept = 1 << 20

// check says what is wrong with what was kept of a slot.
func (k *kept) check(slot int) error {
	switch {
	case rank[k.Phase] == 0:
		return fmt.Errorf("%.20q is no phase", k.Phase)
	case len(k.Operation) > wire.MaxText || len(k.BootID) > wire.MaxText:
		return errors.New("a name is too long")
	case k.Revived < 0 || k.Revived > maxRevivals:
		return fmt.Errorf("it cannot have been switched off and on %d times", k.Revived)
	case k.Arms < 0 || k.Arms > maxArmsKept:
		return fmt.Errorf("it cannot have been armed %d times", k.Arms)
	}
	if err := checkRoot(&k.Root, slot); err != nil || k.Held == nil {
		return err
	}
	return checkRoot(k.Held, slot)
}

func checkRoot(r *store.Root, slot int) error {
	if r.Slot != slot {
		return fmt.Errorf("a root of slot %d", r.Slot)
	}
	if len(r.Layers) > store.MaxLayers {
		return fmt.Errorf("a root of %d layers", len(r.Layers))
	}
	for _, d := range append([]digest.Digest{r.Base}, r.Layers...) {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return fmt.Errorf("%.80q is no SHA-256", string(d))
		}
	}
	for _, text := range []string{r.By, r.Label.File, r.Label.Cluster} {
		if len(text) > wire.MaxText {
			return errors.New("a label is too long")
		}
	}
	return nil
}

func encodeRecords(records map[int]*record) ([]byte, error) {
	disk := recordsOnDisk{Format: recordsFormat, Slots: map[string]kept{}}
	for slot, r := range records {
		disk.Slots[strconv.Itoa(slot)] = r.kept
	}
	data, err := json.MarshalIndent(&disk, "", "\t")
	return append(data, '\n'), err
}

// save keeps the records. The caller holds the lock: they change a few times in minutes.
func (s *Service) save() error {
	s.noteUnfinished()
	data, err := encodeRecords(s.records)
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(s.o.Dir, recordsFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep which cards are being written: %w", err)
	}
	return nil
}
