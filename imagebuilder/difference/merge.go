package difference

import (
	"fmt"
	"strings"

	"hatchery/imagebuilder/diskimage"
)

// comparePaths orders paths as a walk meets them: names in order, a folder
// before what is in it.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// below says whether a path is in a folder, at whatever depth.
func below(path, folder string) bool {
	if folder == "/" {
		return len(path) > 1
	}
	return len(path) > len(folder) && path[len(folder)] == '/' && strings.HasPrefix(path, folder)
}

// parent is the folder that a path is in; "" for the root.
func parent(path string) string {
	at := strings.LastIndexByte(path, '/')
	switch {
	case path == "/" || at < 0:
		return ""
	case at == 0:
		return "/"
	}
	return path[:at]
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// A cursor goes through the files of a lane in order, and knows which of them
// others cannot reach.
type cursor struct {
	lane  *lane
	batch []diskimage.Node
	// closed are the folders above the present file that others may not
	// enter, or that are private by name.
	closed []string
}

// peek gives the present file, nil at the end.
func (c *cursor) peek() (*diskimage.Node, error) {
	for len(c.batch) == 0 {
		batch, more := <-c.lane.batches
		if !more {
			if c.lane.err != nil {
				return nil, c.lane.wrap(c.lane.err)
			}
			return nil, nil
		}
		c.batch = batch
	}
	return &c.batch[0], nil
}

// next goes on to the next file.
func (c *cursor) next() error {
	path := c.batch[0].Path
	c.batch = c.batch[1:]
	if len(c.batch) > 0 {
		return c.ordered(path, c.batch[0].Path)
	}
	following, err := c.peek()
	if err != nil || following == nil {
		return err
	}
	return c.ordered(path, following.Path)
}

func (c *cursor) ordered(path, following string) error {
	if comparePaths(path, following) >= 0 {
		return c.lane.wrap(fmt.Errorf("%w: %q and then %q", ErrDisorder, path, following))
	}
	return nil
}

// private says whether others cannot see what is in the present file, and
// notes a folder that they cannot enter. It is to be called for each file
// once.
func (c *cursor) private(n *diskimage.Node, named bool) bool {
	for len(c.closed) > 0 && !below(n.Path, c.closed[len(c.closed)-1]) {
		c.closed = c.closed[:len(c.closed)-1]
	}
	inside := len(c.closed) > 0
	if n.IsDir() && (named || n.Mode&0o001 == 0) {
		c.closed = append(c.closed, n.Path)
	}
	return inside || named || n.Mode.IsRegular() && n.Mode&0o004 == 0
}
