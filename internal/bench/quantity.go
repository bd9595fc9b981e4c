// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

// quantity is a number of bytes as Kubernetes writes it: 2Gi, 500M. It is a command line flag's value.
type quantity int64

func (q *quantity) Set(s string) error {
	parsed, err := resource.ParseQuantity(s)
	if err != nil {
		return fmt.Errorf("want a number of bytes such as 2Gi: %w", err)
	}
	if parsed.Sign() <= 0 {
		return fmt.Errorf("want a number of bytes above 0, such as 2Gi")
	}
	*q = quantity(parsed.Value())
	return nil
}

func (q quantity) String() string {
	if q == 0 {
		return ""
	}
	return resource.NewQuantity(int64(q), resource.BinarySI).String()
}

func (*quantity) Type() string { return "bytes" }
