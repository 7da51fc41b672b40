package dependency

import "context"

type search struct{ t *task }

func newSearch(t *task) *search { return &search{t} }

func (s *search) run(context.Context) ([]choice, error) {
	return nil, &failure{chain: []string{"cannot be satisfied"}}
}
