package baseimage

import (
	"net/http"
	"time"
)

// SetClient makes a test's server reachable, and its failures quick.
func (c *Cache) SetClient(client *http.Client, stall, pause time.Duration) {
	c.client.Transport, c.client.Stall, c.client.Pause = client.Transport, stall, pause
}

// SetMost bounds downloads to what a test can send.
func (c *Cache) SetMost(most int64) { c.most = most }

// SetSettled makes files that a test has just written old enough: nothing can
// set the time of their last change back.
func (c *Cache) SetSettled(d time.Duration) { c.settled = d }

// RemoveImage removes an image as [Cache.Prune] does, of an entry that may be
// out of date by then.
func (c *Cache) RemoveImage(e Entry) (bool, error) { return images{c}.remove(e) }

// RemoveEntry is RemoveImage for what goes into a Docker layer, and for layers.
func (c *Cache) RemoveEntry(e Entry) (bool, error) {
	for _, s := range append(c.fetchedSections(), dockerLayers{c}) {
		entries, err := s.list()
		if err != nil {
			return false, err
		}
		for _, known := range entries {
			if known.Path == e.Path {
				return s.remove(e)
			}
		}
	}
	return false, nil
}
