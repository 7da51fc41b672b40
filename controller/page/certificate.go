package page

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
)

// The files of the identity folder that are the page's own. The builder makes
// them where cluster.yaml has `serve: {listen: lan}`.
const (
	certificateFile = "page.pem"
	keyFile         = "page-key.pem"
)

// loadTLS is how the page is served to all networks.
func loadTLS(dir string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("the page has no certificate: %w (it comes with the controller's image: build it with `serve: {listen: lan}`, and flash it)", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}, nil
}
