"""A small Django site: patients, their wards, and who does what to them."""
