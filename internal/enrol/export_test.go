package enrol

import (
	"crypto/tls"
	"net/http"
)

// Through has a client's calls answered without a network: a fuzz test asks
// thousands of them a second.
func (c *Client) Through(answers http.RoundTripper) {
	c.through = func(*tls.Config) http.RoundTripper { return answers }
	c.Reset()
}
