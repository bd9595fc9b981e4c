// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

// What the tests outside of the package share with those inside.
var (
	RunEtcd    = runEtcd
	Eventually = eventually
)

// Patience bounds every wait of the tests.
const Patience = patience
