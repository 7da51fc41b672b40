package baseimage

import (
	"net/http"
	"time"
)

// SetClient makes a test's server reachable, and its failures quick.
func (c *Cache) SetClient(client *http.Client, stall, pause time.Duration) {
	c.client, c.stall, c.pause = client, stall, pause
}
