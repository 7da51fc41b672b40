package enrol

import (
	"crypto/tls"
	"net/http"
	"time"
)

// Through has a client's calls answered without a network: a fuzz test asks
// thousands of them a second.
func (c *Client) Through(answers http.RoundTripper) {
	c.through = func(*tls.Config) http.RoundTripper { return answers }
	c.Reset()
}

// Within makes an answer that may stand still for so long only.
func (m *Moving) Within(d time.Duration) *Moving {
	m.stall = d
	return m
}
