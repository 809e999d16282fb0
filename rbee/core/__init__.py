"""The deciding code: values in, values out. No I/O, no asyncio, no clock; time is an argument."""
