"""Orders, and what was charged for them."""

from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=100)
    cents = models.PositiveIntegerField()


class Charge(models.Model):
    """Nothing here keeps an order from being charged twice: jobq does."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="charges")
    cents = models.PositiveIntegerField()
