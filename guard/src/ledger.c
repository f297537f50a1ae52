/*
 * The ledger of checked passwords: a security label on the role, with a digest of the verifier that was stored.
 *
 * Labels of roles are in a catalog that all databases share, so the ledger is transactional, goes with every branch and
 * is read together with the verifiers (control/roles/catalog.py): a verifier that is not the one in the ledger lets nobody
 * in. It is for whatever gets a verifier into pg_authid past `check_password`: a cluster that was made elsewhere, an
 * extension that calls CreateRole itself, a hole.
 *
 * A digest, not a signature: a key would have to be where the server can read it, and so could whoever can write to
 * catalogs at will. That this cannot be done in SQL, not even by a borrowed superuser, is policy.c's.
 */
#include "guard.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/seclabel.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#define PROVIDER "cloister"
#define LABEL_PREFIX "sha256:"

/* SECURITY LABEL is nobody's, not even the platform's: labels come from `ledger_vouch` alone. */
static void
refuse_relabel(const ObjectAddress *object, const char *label)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("security labels of \"%s\" are kept by the server", PROVIDER),
			 errhint("Leave them out of a dump with --no-security-labels.")));
}

static char *
label_of(const char *verifier)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char	   *label = palloc0(strlen(LABEL_PREFIX) + 2 * sizeof(digest) + 1);
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) verifier, strlen(verifier)) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a digest: %s", pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
	strcpy(label, LABEL_PREFIX);
	hex_encode((const char *) digest, sizeof(digest), label + strlen(LABEL_PREFIX));
	return label;
}

void
ledger_vouch(const char *role)
{
	ObjectAddress object;
	HeapTuple	tuple;
	Datum		verifier;
	bool		is_null;

	CommandCounterIncrement();	/* to see what the statement wrote */
	ObjectAddressSet(object, AuthIdRelationId, get_role_oid(role, false));
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(object.objectId));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", object.objectId);
	verifier = SysCacheGetAttr(AUTHOID, tuple, Anum_pg_authid_rolpassword, &is_null);
	if (!is_null)
		SetSecurityLabel(&object, PROVIDER, label_of(TextDatumGetCString(verifier)));
	ReleaseSysCache(tuple);
}

void
ledger_init(void)
{
	register_label_provider(PROVIDER, refuse_relabel);
}
