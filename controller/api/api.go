package api

import (
	_ "embed"
	"net/http"
	"strconv"
)

// Path is where the document is had, on the service's socket and on the page.
const Path = "/openapi.yaml"

//go:embed openapi.yaml
var document []byte

// Document is the OpenAPI document, YAML.
func Document() []byte { return document }

// Calls answers GET [Path] with the document.
func Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/yaml") // RFC 9512
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Length", strconv.Itoa(len(document)))
		// What cannot be written, nobody is there to read.
		_, _ = w.Write(document)
	})
	return mux
}
