package imagebuilder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/atomicfile"
	"hatchery/internal/filesum"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
)

// sumsName is the file of digests in the output folder, as sha256sum reads it.
const sumsName = "SHA256SUMS"

func (o *outDir) blockMap(target string) string { return o.image(target) + ".bmap" }
func (o *outDir) sums() string                  { return filepath.Join(o.path, sumsName) }
func (o *outDir) checkpoints(target string) string {
	return filepath.Join(o.layers(), target+".checkpoints")
}

// removeBeside removes what will not be true of an image any more, before it
// changes: a map that lies beside another image would spoil a card.
func (o *outDir) removeBeside(target string) error {
	for _, place := range []string{o.blockMap(target), o.sums()} {
		if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove what was true of the old image: %w", err)
		}
	}
	return nil
}

// checksums makes what lies beside the images: the maps of those that changed
// or have none and, unless only maps are wanted, the images' digests.
func (o *outDir) checksums(ctx context.Context, builds []*targetBuild, written []writtenImage, mapsOnly bool, reporter progress.Reporter) error {
	below := map[*foundation]*blockmap.Checksums{}
	for i, b := range builds {
		if _, done := below[b.on]; done || !o.needsMap(b.target.Name, written[i]) {
			continue
		}
		sums, err := b.on.checksums(ctx, reporter)
		if err != nil {
			return fmt.Errorf("cannot compute the base image's checksums: %w", err)
		}
		below[b.on] = sums
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, b := range builds {
		group.Go(func() error {
			name := b.target.Name
			if o.needsMap(name, written[i]) {
				if err := o.writeMap(ctx, name, b.top, below[b.on], reporter); err != nil {
					return fmt.Errorf("cannot write %s: %w", o.blockMap(name), err)
				}
			}
			if mapsOnly {
				return nil
			}
			return o.sum(ctx, name, b.top, written[i], reporter)
		})
	}
	return group.Wait()
}

// needsMap says whether a target's map is to be made: its image is another one
// than before, or the map is not the one that was written.
func (o *outDir) needsMap(target string, w writtenImage) bool {
	record := o.record(target)
	if w.state != ImageUnchanged || record == nil || record.Map == "" {
		return true
	}
	data, err := os.ReadFile(o.blockMap(target))
	return err != nil || digest.FromBytes(data) != record.Map
}

func (o *outDir) writeMap(ctx context.Context, target string, top *layer.Layer, base *blockmap.Checksums, reporter progress.Reporter) error {
	m, err := blockmap.Compute(ctx, target+".img", top, top.Extents(), base, reporter)
	if err != nil {
		return err
	}
	var data bytes.Buffer
	if err := m.Write(&data); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(o.blockMap(target), data.Bytes(), 0o600); err != nil {
		return err
	}
	record := o.record(target)
	if record == nil {
		return errNoRecord
	}
	record.Map = digest.FromBytes(data.Bytes())
	return o.setRecord(target, record)
}

// errNoRecord says that somebody removed what this build wrote down.
var errNoRecord = errors.New("the record of what the image holds is gone: run the build again")

// sum computes an image's digest, from the first byte on that changed since it
// was last computed, and records it.
func (o *outDir) sum(ctx context.Context, target string, top *layer.Layer, w writtenImage, reporter progress.Reporter) (err error) {
	record := o.record(target)
	if record == nil {
		return fmt.Errorf("cannot record the SHA-256 of %s: %w", o.image(target), errNoRecord)
	}
	if record.SHA256 != "" {
		return nil
	}
	checkpoints := &filesum.Checkpoints{}
	for _, d := range w.was {
		if kept := filesum.Load(o.checkpoints(target), d.String()); !kept.Empty() {
			checkpoints = kept
			break
		}
	}
	f, err := os.Open(o.image(target))
	if err != nil {
		return err
	}
	defer f.Close()
	task := reporter.Begin("sha256 of "+target+".img", top.Size())
	sum, err := filesum.Sum(ctx, f, checkpoints, w.from, task)
	task.End(err)
	if err != nil {
		return err
	}
	if err := checkpoints.Save(o.checkpoints(target), top.Digest().String()); err != nil {
		return fmt.Errorf("cannot record where the SHA-256 of %s can be taken up: %w", o.image(target), err)
	}
	record.SHA256 = sum
	return o.setRecord(target, record)
}

// summed says whether the digests of the targets' images are known already.
func (o *outDir) summed(targets []spec.Target) bool {
	return !slices.ContainsFunc(targets, func(t spec.Target) bool {
		record := o.record(t.Name)
		return record == nil || record.SHA256 == ""
	})
}

// writeSums writes the digests of what lies in the folder: images that are
// as they were built, their maps, and the documents.
func (o *outDir) writeSums(ctx context.Context, targets []spec.Target) error {
	type line struct{ name, digest string }
	var lines []line
	small := []string{manifestName, sshConfigName, knownHostsName, inventoryName}
	for _, t := range targets {
		image := o.image(t.Name)
		record, info := o.record(t.Name), fs.FileInfo(nil)
		if record != nil && record.SHA256 != "" {
			info, _ = os.Lstat(image)
		}
		if info == nil || info.Size() != record.Size || info.ModTime().UnixNano() != record.ModTime {
			continue // not built, or somebody else wrote to it
		}
		lines = append(lines, line{filepath.Base(image), record.SHA256.Encoded()})
		small = append(small, filepath.Base(o.blockMap(t.Name)), filepath.Base(o.bill(t.Name)))
	}
	for _, name := range small {
		data, err := os.ReadFile(filepath.Join(o.path, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		lines = append(lines, line{name, digest.FromBytes(data).Encoded()})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	var text strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&text, "%s  %s\n", l.digest, l.name)
	}
	return atomicfile.WriteBytes(o.sums(), []byte(text.String()), 0o600)
}
