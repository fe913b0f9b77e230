"""Which columns and fields are taken for secrets."""

import pytest

from fapilog.integrations._secrets import is_secret

SECRET = (
    *("password", "password_hash", "hashed_password", "passphrase", "salt", "apiKey", "API_KEY", "access_key_id"),
    *("refresh_token", "tf_totp_secret", "clientSecret", "fs_uniquifier", "mf_recovery_codes"),
)
OPEN = ("author", "monkey", "key", "keys_held", "tokenizer", "salted", "name", "secretary", "")


@pytest.mark.parametrize("name", SECRET)
def test_a_name_with_the_word_of_a_secret_is_masked(name: str) -> None:
    """A name in which a word means a secret is one, however it is written."""
    assert is_secret(name)


@pytest.mark.parametrize("name", OPEN)
def test_a_name_that_only_contains_such_letters_is_not(name: str) -> None:
    """A name in which the letters of such a word are part of another one is no secret."""
    assert not is_secret(name)
