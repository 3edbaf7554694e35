package table

import (
	"context"
	"fmt"
)

// Funcs is a Table made of functions; those that are nil answer ErrUnsupported,
// but for OnUpdate and OnClose, without which there is nothing to do.
type Funcs struct {
	OnLookup func(ctx context.Context, s Service, key string) (string, error)
	OnFetch  func(ctx context.Context, s Service) (string, error)
	OnUpdate func(ctx context.Context) error
	OnClose  func() error
}

var _ Table = Funcs{}

// Lookup implements Table.
func (f Funcs) Lookup(ctx context.Context, s Service, key string) (string, error) {
	if f.OnLookup == nil {
		return "", fmt.Errorf("%w: %s", ErrUnsupported, s)
	}
	return f.OnLookup(ctx, s, key)
}

// Fetch implements Table.
func (f Funcs) Fetch(ctx context.Context, s Service) (string, error) {
	if f.OnFetch == nil {
		return "", fmt.Errorf("%w: fetch %s", ErrUnsupported, s)
	}
	return f.OnFetch(ctx, s)
}

// Update implements Table.
func (f Funcs) Update(ctx context.Context) error {
	if f.OnUpdate == nil {
		return nil
	}
	return f.OnUpdate(ctx)
}

// Close implements Table.
func (f Funcs) Close() error {
	if f.OnClose == nil {
		return nil
	}
	return f.OnClose()
}
