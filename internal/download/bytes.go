package download

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"hatchery/internal/progress"
)

// Bytes fetches a small document of at most `most` bytes. It comes over https,
// or from this machine. An [*InputError] is a mistake in the URL: a
// [*NotFoundError] is in it where the server has no such file.
//
// A server of HTTP/1.0 that does not say how long the document is can cut it
// short unseen: the document itself must tell.
func (c *Client) Bytes(ctx context.Context, url string, most int64) ([]byte, error) {
	return c.bytes(ctx, url, most, false)
}

// SignedBytes is [Client.Bytes] for a document that carries a signature, or is
// one: since the caller verifies that before anything else, it may come over
// plain http, as package archives are served.
func (c *Client) SignedBytes(ctx context.Context, url string, most int64) ([]byte, error) {
	return c.bytes(ctx, url, most, true)
}

func (c *Client) bytes(ctx context.Context, url string, most int64, plain bool) ([]byte, error) {
	var document []byte
	err := c.retry(ctx, progress.Discard, func(ctx context.Context) (int64, error) {
		a, err := c.ask(ctx, url, http.Header{}, plain)
		if err != nil {
			return 0, err
		}
		defer a.close()
		if code := a.Header.Get("Content-Encoding"); code != "" && code != "identity" {
			return 0, inputErrorf("the server sends it encoded (%q), though it was asked not to", code)
		}
		if a.ContentLength > most {
			return 0, inputErrorf("the server says that %d bytes are to come: more than %s is not what is wanted here; check the URL",
				a.ContentLength, size(most))
		}
		var buffer bytes.Buffer
		n, err := io.Copy(&buffer, io.LimitReader(a, most+1))
		if err != nil {
			// From the beginning next time: what came is of no use.
			return 0, err
		}
		if n > most {
			return 0, inputErrorf("more than %s come: that is not what is wanted here; check the URL", size(most))
		}
		document = buffer.Bytes()
		return n, nil
	})
	return document, err
}
