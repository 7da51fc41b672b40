package stack

import (
	"strings"

	"github.com/docker/cli/cli/compose/schema"
)

// lastVersion is the version of the format that all files are read as.
const lastVersion = "3.13"

// theirWord begins what docker/cli alone finds.
const theirWord = "`docker stack deploy` does not take it"

// validate judges the whole tree: by the shapes, which tell of all that is wrong
// with it at once, and then by docker/cli, which has the last word on what is
// left.
func (d *document) validate() {
	d.judge(nil, d.tree, fileShape)
	if err := schema.Validate(d.tree, lastVersion); err != nil {
		field, rest, _ := strings.Cut(err.Error(), " ")
		path := strings.Split(field, ".")
		if _, there := d.at(path); !there {
			path = nil // (root)
		}
		d.problem(path, "%s: it %s", theirWord, rest)
	}
}
